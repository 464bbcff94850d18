// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"syscall"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// ErrNoServer means that nothing answers on a socket, or that there is none.
var ErrNoServer = errors.New("no server answers")

const (
	// dialTimeout bounds the wait for a place in a server's queue.
	dialTimeout = 5 * time.Second
	// callTimeout bounds a whole call; the largest take some seconds.
	callTimeout = 2 * time.Minute
)

// Client calls a server. Its methods do what those of [Engine] do, return the same, and
// fill the report of their context ([nat.WithReport]). Their errors are the same by
// errors.Is, with the same texts, and by errors.As if they are [*nat.ConflictError],
// [*nat.TakenError] or [*nat.HeldError]; see [Problem]. A call whose context has no
// deadline ends after 2 minutes. A change that has been sent when its context is done may
// be made or not.
type Client struct {
	path string
	http *http.Client
}

// NewClient returns a client of the server whose socket is at path. It connects with
// each call, and the errors of that are ErrNoServer if nothing is there to answer
// and fs.ErrPermission if the socket may not be used.
func NewClient(path string) *Client {
	c := &Client{path: path}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext: c.dial,
		// Whether a request was carried out that was sent just when the server
		// closed the connection, nobody can tell. A new one costs microseconds.
		DisableKeepAlives:  true,
		DisableCompression: true,
	}}
	return c
}

// Path is where the client asks.
func (c *Client) Path() string { return c.path }

// dial connects, and waits while the server's queue is full, which connect(2) does
// not do by itself on a socket that does not block.
func (c *Client) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var d net.Dialer
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		nc, err := d.DialContext(ctx, "unix", c.path)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
			return nil, fmt.Errorf("%w: %w", ErrNoServer, cause(err))
		case !errors.Is(err, syscall.EAGAIN):
			return nc, cause(err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: its queue is full: %w", ErrBusy, ctx.Err())
		}
	}
}

// cause takes off what net and net/http put around an error: the method, an invented
// host, and the path, which is told once.
func cause(err error) error {
	var (
		op  *net.OpError
		url *url.Error
		sys interface{ Unwrap() error }
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &url):
		return cause(url.Err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the server does not answer: %w", context.DeadlineExceeded)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the server closed the connection: %w", err)
	case errors.As(err, &op) && errors.As(op.Err, &sys):
		return sys.Unwrap()
	}
	return err
}

// Mappings returns all mappings that are published, in the order of nat.Compare,
// each of a single port.
func (c *Client) Mappings(ctx context.Context) ([]nat.Mapping, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.send(ctx, http.MethodGet, "/v1/mappings", nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // was only read
	// The largest answer there is: it is not read by way of documents.
	body := bytes.NewBuffer(make([]byte, 0, max(resp.ContentLength+bytes.MinRead, 0)))
	_, err = body.ReadFrom(resp.Body)
	if ms, ok := scanMappings(body.String()); ok && err == nil {
		return ms, nil
	}
	var docs []Mapping
	if err == nil {
		err = json.Unmarshal(body.Bytes(), &docs)
	}
	if err != nil {
		return nil, fmt.Errorf("read answer of %s: %w", c.path, cause(err))
	}
	return singles(docs)
}

// Publish publishes mappings as [Engine].Publish does.
func (c *Client) Publish(ctx context.Context, how nat.PublishOptions, ms ...nat.Mapping) ([]nat.Mapping, error) {
	if err := how.Validate(); err != nil {
		return nil, err
	}
	path := "/v1/mappings"
	if how.Replace {
		path += "?replace=true"
	}
	if how.Kill {
		path += "&kill=true"
	}
	var docs []Mapping
	if err := c.call(ctx, http.MethodPost, path, requests(ms), &docs); err != nil {
		return nil, err
	}
	// Ranges come back a port at a time, in the order in which they were asked for.
	done := make([]nat.Mapping, 0, len(ms))
	for _, m := range ms {
		n := int(m.More) + 1
		if n > len(docs) {
			return nil, fmt.Errorf("ask %s: it published fewer ports than it was asked to", c.path)
		}
		ports, err := singles(docs[:n])
		if err != nil {
			return nil, err
		}
		done = append(done, nat.Collapse(ports)...) // of one name each
		docs = docs[n:]
	}
	return done, nil
}

// Remove removes a mapping, or all of a name, as [Engine].Remove does. Of mappings
// it takes one at a time; the error is nat.ErrInvalid for any other number.
func (c *Client) Remove(ctx context.Context, r nat.Removal) ([]nat.Mapping, error) {
	path, query := "/v1/mappings", url.Values{}
	switch {
	case r.Name != "" && len(r.Mappings) == 0:
		query.Set("name", r.Name)
	case r.Name == "" && len(r.Mappings) == 1:
		m := r.Mappings[0]
		path += "/" + m.Proto.String() + "/" + url.PathEscape(m.FrontendText())
		if r.Exact {
			query.Set("backend", m.BackendText())
		}
	default:
		return nil, fmt.Errorf("remove mappings: %w: one mapping or a name is removed at a time", nat.ErrInvalid)
	}
	if r.Kill {
		query.Set("kill", "true")
	}
	if len(query) != 0 {
		path += "?" + query.Encode()
	}
	var docs []Mapping
	if err := c.call(ctx, http.MethodDelete, path, nil, &docs); err != nil {
		return nil, err
	}
	done, err := singles(docs)
	return nat.Collapse(done), err
}

// Apply makes what is published exactly the given mappings, as [Engine].Apply
// does, and returns what that changed.
func (c *Client) Apply(ctx context.Context, ms ...nat.Mapping) ([]nat.Change, error) {
	return c.put(ctx, "/v1/mappings", requests(ms))
}

// Diff tells what Apply would change.
func (c *Client) Diff(ctx context.Context, ms ...nat.Mapping) ([]nat.Change, error) {
	return c.put(ctx, "/v1/mappings?dry-run=true", requests(ms))
}

// put has something applied, and returns what that changed.
func (c *Client) put(ctx context.Context, path string, doc any) ([]nat.Change, error) {
	var docs []Change
	if err := c.call(ctx, http.MethodPut, path, doc, &docs); err != nil {
		return nil, err
	}
	changes := make([]nat.Change, 0, len(docs))
	for _, doc := range docs {
		change, err := doc.change()
		if err != nil {
			return nil, err
		}
		changes = append(changes, change)
	}
	if report := nat.ReportFrom(ctx); report != nil {
		report.Unchanged = len(changes) == 0
	}
	return changes, nil
}

// Status tells how the server is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var status Status
	err := c.call(ctx, http.MethodGet, "/v1/status", nil, &status)
	return status, err
}

// Progress tells how far the change is that the server is making. It answers while
// other calls wait for that.
func (c *Client) Progress(ctx context.Context) (Progress, error) {
	var progress Progress
	err := c.call(ctx, http.MethodGet, "/v1/progress", nil, &progress)
	return progress, err
}

func requests(ms []nat.Mapping) []request {
	rs := make([]request, len(ms)) // never nil: an empty array, not null
	for i, m := range ms {
		rs[i] = requestOf(m)
	}
	return rs
}

func singles(docs []Mapping) ([]nat.Mapping, error) {
	ms := make([]nat.Mapping, 0, len(docs))
	for i := range docs {
		m, err := docs[i].single()
		if err != nil {
			return nil, err
		}
		ms = append(ms, m)
	}
	return ms, nil
}

// change reads a change's document back.
func (c *Change) change() (nat.Change, error) {
	before, err := whole(c.Old)
	if err != nil {
		return nat.Change{}, err
	}
	after, err := whole(c.New)
	return nat.Change{Old: before, New: after, Before: c.Before, After: c.After}, err
}

// whole is the mapping that was told a port at a time; of nothing, the zero Mapping.
func whole(docs []Mapping) (nat.Mapping, error) {
	ms, err := singles(docs)
	if err != nil || len(ms) == 0 {
		return nat.Mapping{}, err
	}
	ms = slices.Clip(nat.Collapse(ms))
	if len(ms) != 1 {
		return nat.Mapping{}, fmt.Errorf("read change: %s and %s are one side of it", ms[0], ms[1])
	}
	return ms[0], nil
}

// call sends a document, unless it is nil, and reads the answer's into answer, unless
// that is nil. A change fills the report of its context.
func (c *Client) call(ctx context.Context, method, path string, doc, answer any) error {
	var report *nat.Report
	if method != http.MethodGet {
		if report = nat.ReportFrom(ctx); report != nil {
			*report = nat.Report{}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.send(ctx, method, path, doc)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // was only read
	if answer != nil {
		if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
			return fmt.Errorf("read answer of %s: %w", c.path, cause(err))
		}
	}
	if report != nil {
		report.Unchanged = method == http.MethodPost && resp.StatusCode == http.StatusOK
		for _, text := range resp.Header.Values(headerNote) {
			report.Notes = append(report.Notes, readNote(text))
		}
	}
	return nil
}

// send returns an answer that is a success; the caller closes its body.
func (c *Client) send(ctx context.Context, method, path string, doc any) (*http.Response, error) {
	var body io.Reader
	if doc != nil {
		text, err := json.Marshal(doc)
		if err != nil {
			return nil, fmt.Errorf("ask %s: %w", c.path, err)
		}
		body = bytes.NewReader(text)
	}
	// There is no host; HTTP wants to be told one.
	req, err := http.NewRequestWithContext(ctx, method, "http://nftnat"+path, body)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", c.path, err)
	}
	if doc != nil {
		req.Header.Set("Content-Type", typeJSON)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", c.path, cause(err))
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }() // was only read
	return nil, readProblem(resp)
}

// maxProblem bounds the document of a refusal that is read, in bytes.
const maxProblem = 64 << 10

// readProblem returns the refusal in an answer.
func readProblem(resp *http.Response) error {
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	var p Problem
	if mediaType == typeProblem {
		if err := json.NewDecoder(io.LimitReader(resp.Body, maxProblem)).Decode(&p); err == nil {
			return &p
		}
	}
	return problem(resp.StatusCode, CodeInternal, "the server answered "+resp.Status)
}

// Attach attaches an endpoint as [Engine].Attach does.
func (c *Client) Attach(ctx context.Context, a nat.EndpointSpec) (nat.Endpoint, error) {
	var doc Endpoint
	if err := c.call(ctx, http.MethodPost, "/v1/endpoints", attachRequestOf(a), &doc); err != nil {
		return nat.Endpoint{}, err
	}
	return doc.endpoint()
}

// Detach releases an endpoint as [Engine].Detach does, and returns what was
// published of it.
func (c *Client) Detach(ctx context.Context, name string) ([]nat.Mapping, error) {
	var docs []Mapping
	if err := c.call(ctx, http.MethodDelete, "/v1/endpoints/"+url.PathEscape(name), nil, &docs); err != nil {
		return nil, err
	}
	gone, err := singles(docs)
	return nat.Collapse(gone), err
}

// Endpoints returns all endpoints, by name.
func (c *Client) Endpoints(ctx context.Context) ([]nat.Endpoint, error) {
	var docs []Endpoint
	if err := c.call(ctx, http.MethodGet, "/v1/endpoints", nil, &docs); err != nil {
		return nil, err
	}
	all := make([]nat.Endpoint, len(docs))
	for i := range docs {
		var err error
		if all[i], err = docs[i].endpoint(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Endpoint finds the endpoint of a name. The error is nat.ErrNotFound if there is
// none.
func (c *Client) Endpoint(ctx context.Context, name string) (nat.Endpoint, error) {
	all, err := c.Endpoints(ctx)
	if err != nil {
		return nat.Endpoint{}, err
	}
	for _, ep := range all {
		if ep.Name == name {
			return ep, nil
		}
	}
	if _, err := c.Inspect(ctx, name); err != nil { // which says that there is none
		return nat.Endpoint{}, err
	}
	return nat.Endpoint{}, fmt.Errorf("endpoint %s was attached at this moment", name)
}

// Inspect returns the `inspect` document of an endpoint. The error is nat.ErrNotFound
// if there is none.
func (c *Client) Inspect(ctx context.Context, name string) (Inspection, error) {
	var doc Inspection
	err := c.call(ctx, http.MethodGet, "/v1/endpoints/"+url.PathEscape(name), nil, &doc)
	return doc, err
}

// CreateNetwork declares a network as [Engine].CreateNetwork does.
func (c *Client) CreateNetwork(ctx context.Context, n nat.Network) (nat.Network, error) {
	var doc Network
	if err := c.call(ctx, http.MethodPost, "/v1/networks", networkRequestOf(n), &doc); err != nil {
		return nat.Network{}, err
	}
	return doc.network()
}

// RemoveNetwork takes a network back as [Engine].RemoveNetwork does.
func (c *Client) RemoveNetwork(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/networks/"+url.PathEscape(name), nil, nil)
}

// Network finds the network of a name. The error is nat.ErrNotFound if there is none.
func (c *Client) Network(ctx context.Context, name string) (nat.Network, error) {
	var doc Network
	if err := c.call(ctx, http.MethodGet, "/v1/networks/"+url.PathEscape(name), nil, &doc); err != nil {
		return nat.Network{}, err
	}
	return doc.network()
}

// Networks returns all networks, by name.
func (c *Client) Networks(ctx context.Context) ([]nat.Network, error) {
	var docs []Network
	if err := c.call(ctx, http.MethodGet, "/v1/networks", nil, &docs); err != nil {
		return nil, err
	}
	all := make([]nat.Network, 0, len(docs))
	for i := range docs {
		n, err := docs[i].network()
		if err != nil {
			return nil, fmt.Errorf("read network: %w", err)
		}
		all = append(all, n)
	}
	return all, nil
}

// State returns all that there is, as [Engine].State does.
func (c *Client) State(ctx context.Context) (nat.State, error) {
	var doc state
	if err := c.call(ctx, http.MethodGet, "/v1/state", nil, &doc); err != nil {
		return nat.State{}, err
	}
	return doc.state()
}

// ApplyState makes networks, endpoints and mappings exactly these, as
// [Engine].ApplyState does, and returns what that changed.
func (c *Client) ApplyState(ctx context.Context, s nat.State) ([]nat.Change, error) {
	return c.put(ctx, "/v1/state", stateOf(s))
}

// DiffState tells what ApplyState would change.
func (c *Client) DiffState(ctx context.Context, s nat.State) ([]nat.Change, error) {
	return c.put(ctx, "/v1/state?dry-run=true", stateOf(s))
}
