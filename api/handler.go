// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// handler answers requests.
type handler struct {
	Options
	limits limits
	routes []route
	// searches, applies and streams have an element for each that is under way.
	searches, doctors, applies, streams chan struct{}
	// handing is held from the check that Options.Handovers has room to sending to it.
	handing sync.Mutex
}

func newHandler(opts Options, l limits) *handler {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	h := &handler{
		Options: opts, limits: l,
		searches: make(chan struct{}, l.searches), doctors: make(chan struct{}, 1), applies: make(chan struct{}, l.applies), streams: make(chan struct{}, l.streams),
	}
	h.routes = []route{
		{http.MethodGet, "/v1/mappings", "ranges?", "", h.getMappings},
		{http.MethodPost, "/v1/mappings", "replace if-name= kill ranges?", OpPublish, h.postMappings},
		{http.MethodPut, "/v1/mappings", "dry-run ranges?", OpApply, h.putMappings},
		{http.MethodPatch, "/v1/mappings", "ranges?", OpApply, h.patchMappings},
		{http.MethodDelete, "/v1/mappings", "name= kill ranges?", OpUnpublish, h.deleteMappings},
		{http.MethodDelete, "/v1/mappings/{proto}/{frontend}", "backend= name= kill ranges?", OpUnpublish, h.deleteMapping},
		{http.MethodGet, "/v1/endpoints", "ranges?", "", h.getEndpoints},
		{http.MethodPost, "/v1/endpoints", "ranges?", OpAttach, h.postEndpoints},
		{http.MethodGet, "/v1/endpoints/{name}", "", "", h.getEndpoint},
		{http.MethodDelete, "/v1/endpoints/{name}", "ranges?", OpDetach, h.deleteEndpoint},
		{http.MethodGet, "/v1/networks", "", "", h.getNetworks},
		{http.MethodPost, "/v1/networks", "", OpCreateNetwork, h.postNetworks},
		{http.MethodGet, "/v1/networks/{name}", "", "", h.getNetwork},
		{http.MethodDelete, "/v1/networks/{name}", "", OpRemoveNetwork, h.deleteNetwork},
		{http.MethodGet, "/v1/state", "", "", h.getState},
		{http.MethodPut, "/v1/state", "dry-run ranges?", OpApply, h.putState},
		{http.MethodGet, "/v1/connections", "", "", h.getConnections},
		{http.MethodGet, "/v1/explain", "proto= frontend= from=", "", optional(opts.Explain != nil, "explanations", h.getExplain)},
		{http.MethodGet, "/v1/doctor", "", "", optional(opts.Doctor != nil, "doctor", h.getDoctor)},
		{http.MethodGet, "/v1/daemon", "", "", optional(opts.Daemon != nil, "document of itself", h.getDaemon)},
		{http.MethodGet, "/v1/status", "", "", optional(opts.Status != nil, "status", h.getStatus)},
		{http.MethodGet, "/v1/progress", "", "", optional(opts.Progress != nil, "progress", h.getProgress)},
		{http.MethodGet, "/v1/events", "ranges?", "", optional(opts.Events != nil, "events", h.getEvents)},
		{http.MethodPost, "/v1/sessions", "", OpPublish, optional(opts.Sessions != nil, "sessions", h.postSession)},
		{http.MethodPost, "/v1/handover", "", "", optional(opts.Handovers != nil, "handover", h.postHandover)},
		{http.MethodGet, "/healthz", "", "", optional(opts.Health != nil, "health check", h.getHealth)},
		{http.MethodGet, "/metrics", "*", "", optional(opts.Metrics != nil, "metrics", h.getMetrics)},
	}
	return h
}

// route is a method of a path. A segment in braces matches any; http.ServeMux is not used
// because it answers in plain text and with redirections.
type route struct {
	method, path string
	// params are the names of the parameters that the query may have: flags, which are "true"
	// or "false", with "?" at their end, flags that need no value, and with "=", texts. "*": the
	// query is not checked.
	params string
	// operation is the change that the route makes; empty: none that is reported.
	operation Operation
	serve     serveFunc
}

// serveFunc returns the document of the answer; nil: it has written the answer itself. With an
// error it has written nothing.
type serveFunc func(http.ResponseWriter, *call) (any, error)

// optional is serve, or an error if the server does not have what it serves.
func optional(has bool, what string, serve serveFunc) serveFunc {
	if has {
		return serve
	}
	return func(http.ResponseWriter, *call) (any, error) {
		return nil, problem(http.StatusNotFound, CodeUnsupported, "this server has no "+what)
	}
}

// call is a request and its parts.
type call struct {
	*http.Request
	segments []string          // the path's segments in the place of those in braces, unescaped
	query    map[string]string // the parameters that the query has
	read     bool              // its body, if it has one, has been read to its end
	conn     *conn             // nil: it did not come by way of Server.Serve
	reported bool              // its outcome was reported, or it has none
	// report is what the engine did in addition to its result.
	report nat.Report
	// ctx is for the engine: it fills report, and is not done when the client disconnects or
	// the server stops. A client that has closed its side for writing may wait for the answer.
	ctx context.Context
}

func (c *call) flag(name string) bool { return c.query[name] == "true" }

// ServeHTTP answers every error with a problem document.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{Request: r, conn: connOf(r.Context()), read: r.ContentLength == 0}
	c.ctx = nat.WithReport(context.WithoutCancel(r.Context()), &c.report)
	if !c.read {
		rc := http.NewResponseController(w)
		_ = rc.SetReadDeadline(time.Now().Add(h.limits.bodyTime))
		// An error is answered without waiting for the body.
		_ = rc.EnableFullDuplex()
	}
	if err := h.serve(w, c); err != nil {
		p := problemOf(err)
		// A client that has gone ends its request, which is no failure.
		if p.Status == http.StatusInternalServerError && (r.Context().Err() == nil || !errors.Is(err, context.Canceled)) {
			h.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		}
		if p.Code == CodeBusy {
			w.Header().Set("Retry-After", retryAfter)
			w.Header().Set("Connection", "close")
		}
		if !c.read {
			// The rest of the body must not be taken for another request.
			w.Header().Set("Connection", "close")
		}
		h.write(w, c, p.Status, typeProblem, p)
		// The connection is not closed while the client is sending, or the client would see
		// a failed write and not the answer.
		_, _ = io.CopyN(io.Discard, r.Body, h.limits.discard)
	}
}

// retryAfter is how long a client waits before it asks a busy server again, in seconds.
const retryAfter = "1"

// serve answers a request.
func (h *handler) serve(w http.ResponseWriter, c *call) error {
	if c.conn != nil && c.conn.refusal != nil {
		w.Header().Set("Connection", "close")
		return c.conn.refusal
	}
	route, err := h.route(w, c)
	if err != nil {
		return err
	}
	bodiless := c.Method != http.MethodPost && c.Method != http.MethodPut && c.Method != http.MethodPatch
	if bodiless && c.ContentLength != 0 {
		return problem(http.StatusBadRequest, CodeInvalid, c.Method+" has no body")
	}
	var doc any
	if err = c.parseQuery(route.params); err == nil {
		doc, err = route.serve(w, c)
	}
	switch {
	case err != nil && route.operation != "":
		h.outcome(c, Outcome{Operation: route.operation}, err) // unless the engine was called
		return err
	case err != nil || doc == nil:
		return err
	}
	writeNotes(w.Header(), c.report)
	status := http.StatusOK
	if c.Method == http.MethodPost && !c.report.Unchanged {
		status = http.StatusCreated
	}
	h.write(w, c, status, typeJSON, doc)
	return nil
}

// route finds the route of a request, and sets c.segments.
func (h *handler) route(w http.ResponseWriter, c *call) (*route, error) {
	path := strings.Split(c.URL.EscapedPath(), "/")
	for i, s := range path {
		var err error
		if path[i], err = url.PathUnescape(s); err != nil {
			return nil, problem(http.StatusBadRequest, CodeInvalid, err.Error())
		}
	}
	var allow []string
	for i := range h.routes {
		r := &h.routes[i]
		segments, ok := match(r.path, path)
		if !ok {
			continue
		}
		// RFC 9110 section 9.3.2: HEAD is GET without the content, which net/http
		// leaves out.
		if r.method == c.Method || r.method == http.MethodGet && c.Method == http.MethodHead {
			c.segments = segments
			return r, nil
		}
		if allow = append(allow, r.method); r.method == http.MethodGet {
			allow = append(allow, http.MethodHead)
		}
	}
	if allow == nil {
		return nil, problem(http.StatusNotFound, CodeUnsupported, fmt.Sprintf("there is no %q", c.URL.Path))
	}
	w.Header().Set("Allow", strings.Join(allow, ", "))
	return nil, problem(http.StatusMethodNotAllowed, CodeUnsupported,
		fmt.Sprintf("%s is not a method of %q", c.Method, c.URL.Path))
}

// match compares a path with that of a route, and returns the segments in the place of those
// in braces.
func match(pattern string, path []string) (segments []string, ok bool) {
	want := strings.Split(pattern, "/")
	if len(want) != len(path) {
		return nil, false
	}
	for i, s := range want {
		switch {
		case strings.HasPrefix(s, "{"):
			segments = append(segments, path[i])
		case s != path[i]:
			return nil, false
		}
	}
	return segments, true
}

// parseQuery sets c.query.
func (c *call) parseQuery(params string) error {
	if params == "*" {
		return nil
	}
	query, err := url.ParseQuery(c.URL.RawQuery)
	if err != nil {
		return problem(http.StatusBadRequest, CodeInvalid, err.Error())
	}
	c.query = map[string]string{}
	known := strings.Fields(params)
	for name, given := range query {
		isText := slices.Contains(known, name+"=")
		if slices.Contains(known, name+"?") && len(given) == 1 {
			name, given = name+"?", []string{cmp.Or(given[0], "true")}
		}
		switch {
		case !isText && !slices.Contains(known, name):
			return problem(http.StatusBadRequest, CodeInvalid, unknownParameter(name))
		case isText && len(given) != 1:
			return problem(http.StatusBadRequest, CodeInvalid, fmt.Sprintf("parameter %q is there twice", name))
		case !isText && (len(given) != 1 || given[0] != "true" && given[0] != "false"):
			return problem(http.StatusBadRequest, CodeInvalid, fmt.Sprintf("parameter %q is not once true or false", name))
		}
		c.query[strings.TrimSuffix(name, "?")] = given[0]
	}
	return nil
}

func unknownParameter(name string) string { return fmt.Sprintf("unknown parameter %q", name) }

// write sends a document in JSON.
func (h *handler) write(w http.ResponseWriter, c *call, status int, contentType string, doc any) {
	if list, ok := doc.(*mappingList); ok {
		h.sendParts(w, status, contentType, list.parts)
		return
	}
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(doc); err != nil {
		// All documents of this package can be encoded.
		h.Log.Error("encode answer", "path", c.URL.Path, "error", err)
		status = http.StatusInternalServerError
	}
	h.send(w, status, contentType, &body)
}

// send sends an answer. The request is under way until the last byte is sent, hence the flush.
func (h *handler) send(w http.ResponseWriter, status int, contentType string, body *bytes.Buffer) {
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(time.Now().Add(h.limits.writeTime))
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", fmt.Sprint(body.Len()))
	w.WriteHeader(status)
	// The client may have disconnected.
	_, _ = io.Copy(w, body)
	_ = rc.Flush()
}

// sendParts is send of a document that is made while it is sent. Each part may take as long as
// a whole answer.
func (h *handler) sendParts(w http.ResponseWriter, status int, contentType string, parts iter.Seq[[]byte]) {
	rc := http.NewResponseController(w)
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	for part := range parts {
		_ = rc.SetWriteDeadline(time.Now().Add(h.limits.writeTime))
		if _, err := w.Write(part); err != nil {
			return // the client may have disconnected
		}
	}
	_ = rc.Flush()
}

// readBody reads a body of one of the given media types. Errors are [*Problem].
func (h *handler) readBody(w http.ResponseWriter, c *call, limit int64, types ...string) (body []byte, mediaType string, err error) {
	mediaType, err = c.mediaType(types)
	if err != nil {
		return nil, "", err
	}
	if c.ContentLength > limit {
		return nil, "", tooLarge(limit)
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(h.limits.bodyTime))
	// Memory is allocated as the body comes, not by its Content-Length.
	body, err = io.ReadAll(http.MaxBytesReader(w, c.Body, limit))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, "", tooLarge(limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, "", problem(http.StatusRequestTimeout, CodeTimeout,
			fmt.Sprintf("read body: it did not come within %v", h.limits.bodyTime))
	case err != nil:
		return nil, "", malformed(err.Error())
	}
	c.read = true
	// Otherwise net/http takes the deadline for a disconnect.
	_ = rc.SetReadDeadline(time.Time{})
	return body, mediaType, nil
}

// readOne reads a body that is an object with these fields.
func (h *handler) readOne(w http.ResponseWriter, c *call, doc any, fields []string) error {
	body, _, err := h.readBody(w, c, h.limits.body, typeJSON)
	if err != nil {
		return err
	}
	return decodeOne(body, doc, fields)
}

func tooLarge(limit int64) error {
	return problem(http.StatusRequestEntityTooLarge, CodeInvalid,
		fmt.Sprintf("read body: it is larger than %d bytes", limit))
}

// mediaType returns which of the types the body is of.
func (c *call) mediaType(types []string) (string, error) {
	given := c.Header.Get("Content-Type")
	mediaType, _, err := mime.ParseMediaType(given)
	encoding := c.Header.Get("Content-Encoding")
	for _, t := range types {
		if err == nil && encoding == "" && mediaType == t {
			return t, nil
		}
	}
	if encoding != "" {
		given += " in " + encoding
	}
	return "", problem(http.StatusUnsupportedMediaType, CodeUnsupported,
		fmt.Sprintf("the body is %q and not %s", given, strings.Join(types, " or ")))
}
