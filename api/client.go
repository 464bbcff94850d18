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
	"strings"
	"syscall"
	"time"

	"github.com/nftnat/nftnat/internal/unixhttp"
	"github.com/nftnat/nftnat/nat"
)

// ErrNoServer means that there is no socket, or that nothing listens on it.
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
// deadline ends after 2 minutes. If the context is done after the request was sent, the
// change may have been made or not.
type Client struct{ path, agent string }

// NewClient returns a client of the server whose socket is at path. It connects with
// each call; the call returns ErrNoServer if no server listens there, and
// fs.ErrPermission if the client may not use the socket.
func NewClient(path string) *Client { return &Client{path: path} }

// As returns a client that calls itself agent, such as [GatewayAgent]. A daemon logs changes of a gateway, which
// anybody in a LAN may cause, once a second at most.
func (c *Client) As(agent string) *Client { return &Client{c.path, agent} }

// Path is where the client asks.
func (c *Client) Path() string { return c.path }

// dial connects, and waits while the server's queue is full, which connect(2) does
// not do by itself on a socket that does not block.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
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

// cause removes what net puts around an error: the operation, and the path, which the caller
// adds.
func cause(err error) error {
	var (
		op  *net.OpError
		sys interface{ Unwrap() error }
	)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the server does not answer: %w", context.DeadlineExceeded)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the server closed the connection: %w", err)
	case errors.As(err, &op) && errors.As(op.Err, &sys):
		return sys.Unwrap()
	}
	return err
}

// ranged returns a path with the parameter by which ranges are answered as one.
func ranged(path string) string {
	if strings.Contains(path, "?") {
		return path + "&ranges"
	}
	return path + "?ranges"
}

// unranged removes what ranged adds.
func unranged(path string) string { return strings.TrimRight(strings.TrimSuffix(path, "ranges"), "?&") }

// Mappings returns all mappings that are published, in the order of nat.Compare, consecutive
// ports as one range; an older server returns single ports.
func (c *Client) Mappings(ctx context.Context) ([]nat.Mapping, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.send(ctx, http.MethodGet, ranged("/v1/mappings"), nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // was only read
	// The largest answer: it is parsed without documents in between.
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
	return mappings(docs)
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
	if how.IfName != "" {
		path += "&if-name=" + url.QueryEscape(how.IfName)
	}
	docs, err := fetch[[]Mapping](ctx, c, http.MethodPost, ranged(path), requests(ms))
	if err != nil {
		return nil, err
	}
	// The answer has the mappings in the order of the request; an older server expands ranges.
	answer, err := mappings(docs)
	if err != nil {
		return nil, err
	}
	done := make([]nat.Mapping, 0, len(ms))
	for _, m := range ms {
		n := 0
		for ports := int(m.More) + 1; ports > 0; n++ {
			if n == len(answer) {
				return nil, fmt.Errorf("ask %s: it published fewer ports than it was asked to", c.path)
			}
			ports -= int(answer[n].More) + 1
		}
		done = append(done, nat.Collapse(answer[:n])...) // of one name each
		answer = answer[n:]
	}
	return done, nil
}

// Remove removes one mapping, perhaps only if it has a name, or all of a name, as [Engine].Remove
// does. The error is nat.ErrInvalid for any other number of mappings.
func (c *Client) Remove(ctx context.Context, r nat.Removal) ([]nat.Mapping, error) {
	path, query := "/v1/mappings", url.Values{}
	switch {
	case r.Name != "" && len(r.Mappings) == 0:
		query.Set("name", r.Name)
	case len(r.Mappings) == 1:
		m := r.Mappings[0]
		if r.Name != "" {
			query.Set("name", r.Name)
		}
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
	return c.removed(ctx, path)
}

// removed sends a DELETE, and returns the mappings of the answer.
func (c *Client) removed(ctx context.Context, path string) ([]nat.Mapping, error) {
	docs, err := fetch[[]Mapping](ctx, c, http.MethodDelete, ranged(path), nil)
	if err != nil {
		return nil, err
	}
	ms, err := mappings(docs)
	return nat.Collapse(ms), err
}

// Apply makes what is published exactly the given mappings, as [Engine].Apply does, and
// returns the changes.
func (c *Client) Apply(ctx context.Context, ms ...nat.Mapping) ([]nat.Change, error) {
	return c.put(ctx, "/v1/mappings", requests(ms))
}

// exchangeRequest is the document of a nat.Exchange.
type exchangeRequest struct {
	Remove  []request `json:"remove"`
	Publish []request `json:"publish"`
}

// Exchange unpublishes mappings and publishes others, in one transaction, as [Engine].Exchange does,
// and returns the changes. The error is errors.ErrUnsupported if the server is of a version without it.
func (c *Client) Exchange(ctx context.Context, x nat.Exchange) ([]nat.Change, error) {
	return c.change(ctx, http.MethodPatch, "/v1/mappings", exchangeRequest{requests(x.Remove), requests(x.Publish)})
}

// Diff returns the changes that Apply would make.
func (c *Client) Diff(ctx context.Context, ms ...nat.Mapping) ([]nat.Change, error) {
	return c.put(ctx, "/v1/mappings?dry-run=true", requests(ms))
}

func (c *Client) put(ctx context.Context, path string, doc any) ([]nat.Change, error) {
	return c.change(ctx, http.MethodPut, path, doc)
}

func (c *Client) change(ctx context.Context, method, path string, doc any) ([]nat.Change, error) {
	docs, err := fetch[[]Change](ctx, c, method, ranged(path), doc)
	if err != nil {
		return nil, err
	}
	if report := nat.ReportFrom(ctx); report != nil {
		report.Unchanged = len(docs) == 0
	}
	return parseAll(docs, (*Change).change)
}

// Status returns the status of the server.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return fetch[Status](ctx, c, http.MethodGet, "/v1/status", nil)
}

// Progress returns the progress of the change that the server is making. It answers while
// other calls wait for that change.
func (c *Client) Progress(ctx context.Context) (Progress, error) {
	return fetch[Progress](ctx, c, http.MethodGet, "/v1/progress", nil)
}

// Health asks whether the server can do its work: whether its engine answers within 5 s and
// its table is in the kernel. Nil: yes. Otherwise the error is a [*Problem] that says what is
// wrong, or says that no server answers.
func (c *Client) Health(ctx context.Context) error {
	return c.call(ctx, http.MethodGet, "/healthz", nil, nil)
}

// Attach attaches an endpoint as [Engine].Attach does.
func (c *Client) Attach(ctx context.Context, a nat.EndpointSpec) (nat.Endpoint, error) {
	doc, err := fetch[Endpoint](ctx, c, http.MethodPost, ranged("/v1/endpoints"), attachRequestOf(a))
	if err != nil {
		return nat.Endpoint{}, err
	}
	return doc.endpoint()
}

// Detach releases an endpoint as [Engine].Detach does, and returns its mappings.
func (c *Client) Detach(ctx context.Context, name string) ([]nat.Mapping, error) {
	return c.removed(ctx, "/v1/endpoints/"+url.PathEscape(name))
}

// Endpoints returns all endpoints, by name.
func (c *Client) Endpoints(ctx context.Context) ([]nat.Endpoint, error) {
	docs, err := fetch[[]Endpoint](ctx, c, http.MethodGet, ranged("/v1/endpoints"), nil)
	if err != nil {
		return nil, err
	}
	return parseAll(docs, (*Endpoint).endpoint)
}

// Endpoint finds the endpoint of a name. The error is nat.ErrNotFound if there is
// none.
func (c *Client) Endpoint(ctx context.Context, name string) (nat.Endpoint, error) {
	all, err := c.Endpoints(ctx)
	if err != nil {
		return nat.Endpoint{}, err
	}
	for _, ep := range all {
		if ep.Name == nat.Name(name) {
			return ep, nil
		}
	}
	if _, err := c.Inspect(ctx, name); err != nil { // for the server's error
		return nat.Endpoint{}, err
	}
	return nat.Endpoint{}, fmt.Errorf("endpoint %s was attached at this moment", name)
}

// Inspect returns the `inspect` document of an endpoint. The error is nat.ErrNotFound
// if there is none.
func (c *Client) Inspect(ctx context.Context, name string) (Inspection, error) {
	return fetch[Inspection](ctx, c, http.MethodGet, "/v1/endpoints/"+url.PathEscape(name), nil)
}

// CreateNetwork creates a network as [Engine].CreateNetwork does.
func (c *Client) CreateNetwork(ctx context.Context, n nat.Network) (nat.Network, error) {
	doc, err := fetch[Network](ctx, c, http.MethodPost, "/v1/networks", networkRequestOf(n))
	if err != nil {
		return nat.Network{}, err
	}
	return doc.network()
}

// RemoveNetwork removes a network as [Engine].RemoveNetwork does.
func (c *Client) RemoveNetwork(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/networks/"+url.PathEscape(name), nil, nil)
}

// Network finds the network of a name. The error is nat.ErrNotFound if there is none.
func (c *Client) Network(ctx context.Context, name string) (nat.Network, error) {
	doc, err := fetch[Network](ctx, c, http.MethodGet, "/v1/networks/"+url.PathEscape(name), nil)
	if err != nil {
		return nat.Network{}, err
	}
	return doc.network()
}

// Networks returns all networks, by name.
func (c *Client) Networks(ctx context.Context) ([]nat.Network, error) {
	docs, err := fetch[[]Network](ctx, c, http.MethodGet, "/v1/networks", nil)
	if err != nil {
		return nil, err
	}
	return parseAll(docs, (*Network).network)
}

// State returns networks, endpoints and mappings, as [Engine].State does.
func (c *Client) State(ctx context.Context) (nat.State, error) {
	doc, err := fetch[state](ctx, c, http.MethodGet, "/v1/state", nil)
	if err != nil {
		return nat.State{}, err
	}
	return doc.state()
}

// ApplyState makes networks, endpoints and mappings exactly these, as
// [Engine].ApplyState does, and returns the changes.
func (c *Client) ApplyState(ctx context.Context, s nat.State) ([]nat.Change, error) {
	return c.put(ctx, "/v1/state", stateOf(s))
}

// DiffState returns the changes that ApplyState would make.
func (c *Client) DiffState(ctx context.Context, s nat.State) ([]nat.Change, error) {
	return c.put(ctx, "/v1/state?dry-run=true", stateOf(s))
}

// fetch is Client.call that returns the document of the answer.
func fetch[D any](ctx context.Context, c *Client, method, path string, doc any) (answer D, err error) {
	err = c.call(ctx, method, path, doc, &answer)
	return answer, err
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
	var body []byte
	if doc != nil {
		var err error
		if body, err = json.Marshal(doc); err != nil {
			return nil, fmt.Errorf("ask %s: %w", c.path, err)
		}
	}
	nc, err := c.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", c.path, err)
	}
	var fields []string
	if c.agent != "" {
		fields = append(fields, "User-Agent: "+c.agent)
	}
	resp, err := unixhttp.Do(ctx, nc, method, path, body, fields...)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", c.path, cause(err))
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }() // was only read
	err = readProblem(resp)
	if p := (*Problem)(nil); resp.StatusCode == http.StatusBadRequest && path != unranged(path) &&
		errors.As(err, &p) && p.Detail == unknownParameter("ranges") {
		return c.send(ctx, method, unranged(path), doc) // an older server has done nothing
	}
	return nil, err
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
