// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/internal/httpd"
	"github.com/nftnat/nftnat/nat"
)

const (
	// headerTimeout bounds the wait for a request's header, idleTimeout that for another request, and
	// writeTimeout how long an answer may take its client.
	headerTimeout = 5 * time.Second
	idleTimeout   = 30 * time.Second
	writeTimeout  = 30 * time.Second
	maxHeader     = 8 << 10
	maxBody       = 8 << 10
	// aliveEvery is how often a stream has a line at least.
	aliveEvery = 15 * time.Second
	// endTimeout bounds the wait for answers when the server ends.
	endTimeout = 2 * time.Second
	// maxExplains is how many explanations are asked for at once, and explainTimeout how long each may
	// take, as may a change.
	maxExplains    = 4
	explainTimeout = 30 * time.Second
)

// server answers requests.
type server struct {
	*hub
	policy   string
	token    [sha256.Size]byte
	explains chan struct{}
}

// Run serves the page until ctx is done. Then the error is nil.
func Run(ctx context.Context, o Options) error {
	s := newServer(o)
	reading, stop := context.WithCancel(ctx)
	defer stop()
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	running.Go(func() { s.run(reading) })
	hs := httpd.New(httpd.Options{
		Handler: s, HeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeader: maxHeader, MaxConns: maxConnections, Log: s.Log,
	})
	served := make(chan error, 1)
	running.Go(func() { served <- hs.Serve(&bounded{Listener: o.Listener, sources: map[netip.Addr]int{}}) })
	var err error
	select {
	case err = <-served:
		err = fmt.Errorf("serve page: %w", err)
	case <-ctx.Done():
	}
	stop()
	hs.Stop()
	_ = o.Listener.Close() // it may have failed
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	if hs.Shutdown(ending) != nil {
		hs.Close() // clients that are too slow
	}
	return err
}

func newServer(o Options) *server {
	o.Names = slices.Clone(o.Names)
	for i, n := range o.Names {
		o.Names[i] = normal(n)
	}
	return &server{
		hub: newHub(o, rand.Text()[:8]), policy: policy(), token: sha256.Sum256([]byte(o.Token)), explains: make(chan struct{}, maxExplains),
	}
}

// ServeHTTP checks what is the same for all requests.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout)) // of refusals too
	h := w.Header()
	h.Set("Content-Security-Policy", s.policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	switch {
	case !s.admits(r):
		s.refuse(w, http.StatusMisdirectedRequest, api.CodePermission, "this is not a name of this host: see --host")
		return
	case r.Header.Get("Sec-Fetch-Site") == "cross-site" && r.Header.Get("Sec-Fetch-Mode") != "navigate":
		s.refuse(w, http.StatusForbidden, api.CodePermission, "another site may only link to this page")
		return
	}
	path, method := r.URL.Path, r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	serve, allow := s.route(path, method)
	switch {
	case allow == "":
		s.refuse(w, http.StatusNotFound, api.CodeNotFound, "there is no such page")
	case serve == nil:
		h.Set("Allow", allow)
		s.refuse(w, http.StatusMethodNotAllowed, api.CodeUnsupported, r.Method+" is not a method of this page")
	case method == http.MethodGet && r.ContentLength != 0:
		h.Set("Connection", "close")
		s.refuse(w, http.StatusBadRequest, api.CodeInvalid, r.Method+" has no body")
	default:
		serve(w, r)
	}
}

// route returns what serves a path by a method, and the methods that the path has.
func (s *server) route(path, method string) (serve http.HandlerFunc, allow string) {
	get := func(f http.HandlerFunc) (http.HandlerFunc, string) {
		if method != http.MethodGet {
			f = nil
		}
		return f, "GET, HEAD"
	}
	switch path {
	case "/":
		return get(s.page)
	case "/status.json":
		return get(s.statusJSON)
	case "/explain":
		return get(s.explain)
	case "/v1/events":
		return get(s.events)
	case "/v1/token":
		return get(func(w http.ResponseWriter, r *http.Request) {
			if s.authorized(w, r) {
				w.WriteHeader(http.StatusNoContent)
			}
		})
	case "/v1/mappings":
		if method == http.MethodPost {
			return s.add, "POST"
		}
		return nil, "POST"
	}
	if rest, ok := strings.CutPrefix(path, "/v1/mappings/"); ok && strings.Count(rest, "/") == 1 {
		if method == http.MethodDelete {
			return s.remove, "DELETE"
		}
		return nil, "DELETE"
	}
	return nil, ""
}

// admits reports whether a request was sent to a name of this host. A page of another site can have its
// name lead to this address, and would read all answers then; it cannot choose an address as its name.
func (s *server) admits(r *http.Request) bool {
	host := r.Host
	if h, port, err := net.SplitHostPort(host); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return false
		}
		host = h
	}
	host = normal(host)
	if slices.Contains(s.Names, host) {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	at, err := netip.ParseAddrPort(local.String())
	if err != nil {
		return false
	}
	own := at.Addr().Unmap().WithZone("")
	return host == own.String() || host == "localhost" && own.IsLoopback()
}

// refuse answers with a problem document, as the daemon does.
func (s *server) refuse(w http.ResponseWriter, status int, code api.Code, detail string) {
	writeProblem(w, &api.Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail, Code: code})
}

func writeProblem(w http.ResponseWriter, p *api.Problem) {
	body := encode(p)
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) // the client may have gone
}

// fail answers with an error of the daemon.
func (s *server) fail(w http.ResponseWriter, err error) {
	var p *api.Problem
	switch {
	case errors.As(err, &p) && p.Status >= 400:
		writeProblem(w, p)
	case errors.Is(err, nat.ErrInvalid):
		s.refuse(w, http.StatusBadRequest, api.CodeInvalid, err.Error())
	default:
		s.refuse(w, http.StatusBadGateway, api.CodeInternal, err.Error())
	}
}

// unchanged answers with 304 if the client has the version, and sets the headers of both answers.
func (s *server) unchanged(w http.ResponseWriter, r *http.Request, tag string) bool {
	tag = `W/"` + tag + `"`
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("ETag", tag)
	for _, given := range r.Header.Values("If-None-Match") {
		for one := range strings.SplitSeq(given, ",") {
			if one = strings.TrimSpace(one); one == tag || one == "*" {
				w.WriteHeader(http.StatusNotModified)
				return true
			}
		}
	}
	return false
}

// send answers with parts.
func send(w http.ResponseWriter, contentType string, parts ...[]byte) {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(size))
	for _, p := range parts {
		if _, err := w.Write(p); err != nil {
			return // the client has gone
		}
	}
}

const (
	typeHTML   = "text/html; charset=utf-8"
	typeJSON   = "application/json"
	typeEvents = "application/x-ndjson"
)

func (s *server) page(w http.ResponseWriter, r *http.Request) {
	v := s.fresh(r.Context())
	id := s.id(v.version)
	if s.unchanged(w, r, id) {
		return
	}
	v.render(s.Token != "")
	var before, after writer
	before.before(&s.Options, v, id, s.now())
	after.after(&s.Options, v)
	send(w, typeHTML, before.b, v.html, after.b)
}

func (s *server) statusJSON(w http.ResponseWriter, r *http.Request) {
	v := s.fresh(r.Context())
	if s.unchanged(w, r, s.id(v.version)) {
		return
	}
	v.render(s.Token != "")
	now := s.now().UTC().Format("2006-01-02T15:04:05.000Z")
	send(w, typeJSON, []byte(`{"now":"`+now+`",`), v.json)
}

// hello is the first line of the events, and those that keep a stream alive.
type hello struct {
	Type    string    `json:"type"` // "hello" or "now"
	Now     time.Time `json:"now"`
	Version string    `json:"version,omitempty"`
}

func (s *server) events(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	stream, lacks, ok := s.subscribe(query.Get("since"), query.Has("page"))
	if stream == nil {
		w.Header().Set("Retry-After", "5")
		s.refuse(w, http.StatusServiceUnavailable, api.CodeBusy, "too many clients follow")
		return
	}
	defer s.unsubscribe(stream)
	w.Header().Set("Content-Type", typeEvents)
	if r.Method == http.MethodHead {
		return
	}
	rc := http.NewResponseController(w)
	write := func(text []byte) bool {
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, err := w.Write(text)
		return err == nil
	}
	lost := encode(api.Event{Type: api.EventLost, Time: s.now().UTC()})
	if !ok {
		write(lost)
		return
	}
	if !write(encode(hello{Type: "hello", Now: s.now().UTC()})) {
		return
	}
	for _, text := range lacks {
		if !write(text) {
			return
		}
	}
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	for rc.Flush() == nil {
		var lines [][]byte
		behind := false
		select {
		case <-stream.some:
			lines, behind = s.drain(stream)
		case <-alive.C:
			lines = [][]byte{encode(hello{Type: "now", Now: s.now().UTC()})}
		case <-s.ended:
			return
		case <-r.Context().Done():
			return
		}
		if behind {
			write(lost)
			return
		}
		for _, text := range lines {
			if !write(text) {
				return
			}
		}
	}
}

func (s *server) explain(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	proto, frontend, from := query.Get("proto"), query.Get("frontend"), query.Get("from")
	status, text := http.StatusOK, ""
	if proto != "" || frontend != "" {
		answer, err := s.explanation(r.Context(), proto, frontend, from)
		var p *api.Problem
		switch {
		case err == nil:
			text = answer.Text()
			if answer.Verdict == report.NotPublished {
				status = http.StatusNotFound
			}
		case errors.Is(err, nat.ErrInvalid):
			status, text = http.StatusBadRequest, err.Error()
		case errors.As(err, &p) && p.Status >= 400:
			status, text = p.Status, err.Error()
		default:
			status, text = http.StatusBadGateway, err.Error()
		}
	}
	var page writer
	page.explainPage(&s.Options, proto, frontend, from, text, status >= http.StatusBadRequest)
	w.Header().Set("Content-Type", typeHTML)
	w.Header().Set("Content-Length", strconv.Itoa(len(page.b)))
	w.WriteHeader(status)
	_, _ = w.Write(page.b) // the client may have gone
}

// explanation asks the daemon, for a few clients at once.
func (s *server) explanation(ctx context.Context, proto, frontend, from string) (report.Report, error) {
	q, err := report.ParseQuery(proto, frontend, strings.TrimSpace(from))
	if err != nil {
		return report.Report{}, err
	}
	select {
	case s.explains <- struct{}{}:
		defer func() { <-s.explains }()
	default:
		return report.Report{}, &api.Problem{Status: http.StatusServiceUnavailable, Detail: "others are asking: try again", Code: api.CodeBusy}
	}
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	return s.Daemon.Explain(ctx, q)
}
