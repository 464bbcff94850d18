// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package space

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/internal/httpd"
	"github.com/nftnat/nftnat/internal/unixhttp"
	"github.com/nftnat/nftnat/nat"
)

const (
	// maxBody bounds a request, in bytes.
	maxBody = 1 << 20
	// callTime bounds a call, on both sides.
	callTime = time.Minute
	// endTime bounds the answering of requests at the end.
	endTime = 5 * time.Second
	leases  = "/v1/space/leases"
	mapped  = "/v1/space/mappings"
)

// leaseRequest is the body of POST /v1/space/leases.
type leaseRequest struct {
	Network string   `json:"network"`
	Name    string   `json:"name"`
	Address string   `json:"address,omitempty"` // the next free one
	Ports   []string `json:"ports,omitempty"`   // port specs
}

// publishRequest is the body of POST /v1/space/mappings.
type publishRequest struct {
	Proto   string `json:"proto"`
	Address string `json:"address"` // the shared one
	Backend string `json:"backend"`
	Name    string `json:"name,omitempty"`
}

// Handler answers the commands of this host: POST /v1/space/leases, DELETE /v1/space/leases/NETWORK/NAME, POST
// /v1/space/mappings.
func (m *Manager) Handler() http.Handler {
	mux := http.NewServeMux()
	handle(mux, "POST "+leases, func(ctx context.Context, r *http.Request) (any, error) {
		var q leaseRequest
		if err := readRequest(r, &q); err != nil {
			return nil, err
		}
		a, err := nat.ParseEndpointSpec(q.Name, q.Network, q.Address, q.Ports...)
		if err != nil {
			return nil, err
		}
		ep, err := m.Lease(ctx, a)
		return api.RangeEndpointOf(ep), err
	})
	handle(mux, "DELETE "+leases+"/{network}/{name}", func(ctx context.Context, r *http.Request) (any, error) {
		ms, err := m.Release(ctx, r.PathValue("network"), r.PathValue("name"))
		return texts(ms), err
	})
	handle(mux, "POST "+mapped, func(ctx context.Context, r *http.Request) (any, error) {
		var q publishRequest
		if err := readRequest(r, &q); err != nil {
			return nil, err
		}
		want, err := q.mapping()
		if err != nil {
			return nil, err
		}
		done, err := m.Publish(ctx, nat.PublishOptions{}, want)
		return texts([]nat.Mapping{done}), err
	})
	return mux
}

func (q *publishRequest) mapping() (nat.Mapping, error) {
	want, err := nat.ParseMapping(q.Proto, "0", q.Backend)
	if err != nil {
		return nat.Mapping{}, err
	}
	addr, err := netip.ParseAddr(q.Address)
	if err != nil {
		return nat.Mapping{}, &nat.InvalidError{What: "address", Input: q.Address, Reason: "it is not an IP address"}
	}
	want.Frontend, want.Name = netip.AddrPortFrom(addr.Unmap(), 0), q.Name
	return want, nil
}

func texts(ms []nat.Mapping) []string {
	all := make([]string, len(ms))
	for i, o := range ms {
		all[i] = o.String()
	}
	return all
}

func readRequest(r *http.Request, to any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return &nat.InvalidError{What: "request", Reason: err.Error()}
	}
	return nil
}

// handle answers with a document, or a problem.
func handle(mux *http.ServeMux, pattern string, f func(context.Context, *http.Request) (any, error)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), callTime)
		defer cancel()
		doc, err := f(ctx, r)
		status, media := http.StatusOK, "application/json"
		if err != nil {
			p := problemOf(err)
			doc, status, media = p, p.Status, "application/problem+json"
		}
		w.Header().Set("Content-Type", media)
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(doc) // the client may be gone
	})
}

// problemOf is the document of an error.
func problemOf(err error) *api.Problem {
	p := &api.Problem{Type: "about:blank", Status: http.StatusInternalServerError, Code: api.CodeInternal}
	for _, k := range []struct {
		err    error
		code   api.Code
		status int
	}{
		{fs.ErrPermission, api.CodePermission, http.StatusForbidden},
		{nat.ErrInvalid, api.CodeInvalid, http.StatusUnprocessableEntity},
		{nat.ErrConflict, api.CodeConflict, http.StatusConflict},
		{nat.ErrExhausted, api.CodeExhausted, http.StatusConflict},
		{nat.ErrNotFound, api.CodeNotFound, http.StatusNotFound},
		{ErrClosed, api.CodeBusy, http.StatusServiceUnavailable},
		{ErrNotYet, api.CodeBusy, http.StatusServiceUnavailable},
		{store.ErrUnavailable, api.CodeBusy, http.StatusServiceUnavailable},
		{store.ErrNoSpace, api.CodeBusy, http.StatusServiceUnavailable},
	} {
		if errors.Is(err, k.err) {
			p.Code, p.Status = k.code, k.status
			break
		}
	}
	p.Title, p.Detail = http.StatusText(p.Status), strings.ReplaceAll(err.Error(), "\n", "; ")
	return p
}

// Serve serves the commands of this host until ctx is done, and closes the listener.
func (m *Manager) Serve(ctx context.Context, l net.Listener) error {
	server := httpd.New(httpd.Options{Handler: m.Handler(), MaxBody: maxBody, BodyTimeout: endTime, Log: m.log})
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		return errors.Join(err, l.Close())
	case <-ctx.Done():
	}
	server.Stop()
	err := l.Close()
	if serveErr := <-served; !errors.Is(serveErr, net.ErrClosed) {
		err = errors.Join(err, serveErr)
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	if server.Shutdown(end) != nil {
		server.Close()
	}
	return err
}

// Client asks the agent of this host. Its errors are those of a [Manager] by errors.Is, as far as package nat
// has them.
type Client struct{ path string }

// NewClient returns a client of the agent whose socket is at path.
func NewClient(path string) *Client { return &Client{path} }

// Lease leases an address. ports are port specs; an empty address is the next free one.
func (c *Client) Lease(ctx context.Context, network, name, address string, ports ...string) (api.Endpoint, error) {
	var doc api.Endpoint
	err := c.call(ctx, http.MethodPost, leases, leaseRequest{network, name, address, ports}, &doc)
	return doc, err
}

// Release releases an endpoint, and returns what was published of it.
func (c *Client) Release(ctx context.Context, network, name string) (ms []string, err error) {
	for what, text := range map[string]string{"shared network": network, "endpoint": name} {
		if err := keys.ValidateName(what, text); err != nil {
			return nil, err
		}
	}
	err = c.call(ctx, http.MethodDelete, leases+"/"+url.PathEscape(network)+"/"+url.PathEscape(name), nil, &ms)
	return ms, err
}

// Publish publishes a port of a shared address, and returns the mapping.
func (c *Client) Publish(ctx context.Context, proto, address, backend, name string) (string, error) {
	var ms []string
	if err := c.call(ctx, http.MethodPost, mapped, publishRequest{proto, address, backend, name}, &ms); err != nil {
		return "", err
	}
	return strings.Join(ms, "\n"), nil
}

func (c *Client) call(ctx context.Context, method, path string, doc, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var body []byte
	if doc != nil {
		var err error
		if body, err = json.Marshal(doc); err != nil {
			return err
		}
	}
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", c.path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no agent answers at %s: start nftnat-fleet agent", c.path)
	case err != nil:
		return err
	}
	resp, err := unixhttp.Do(ctx, nc, method, path, body)
	if err != nil {
		return fmt.Errorf("ask %s: %w", c.path, err)
	}
	defer func() { _ = resp.Body.Close() }() // was only read
	read := json.NewDecoder(io.LimitReader(resp.Body, maxBody))
	if resp.StatusCode == http.StatusOK {
		return read.Decode(answer)
	}
	var p api.Problem
	if err := read.Decode(&p); err != nil || p.Detail == "" {
		return fmt.Errorf("ask %s: it answers %s", c.path, resp.Status)
	}
	return &p
}
