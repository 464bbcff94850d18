// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

// authorized reports whether a request has the token, and otherwise answers it. Tokens are compared by
// their hashes, which takes the same time whatever was sent. A page of another site cannot send the
// header: browsers ask first (CORS), and are not answered.
func (s *server) authorized(w http.ResponseWriter, r *http.Request) bool {
	if s.Token == "" {
		s.refuse(w, http.StatusForbidden, api.CodePermission, "this page cannot change anything: see --token-file")
		return false
	}
	scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	sum := sha256.Sum256([]byte(strings.TrimSpace(given)))
	if subtle.ConstantTimeCompare(sum[:], s.token[:]) != 1 || !strings.EqualFold(scheme, "Bearer") {
		w.Header().Set("WWW-Authenticate", "Bearer")
		s.refuse(w, http.StatusUnauthorized, api.CodePermission, "the token is missing or wrong")
		return false
	}
	return true
}

// addition is the document of a mapping that is to be published.
type addition struct {
	Proto    string `json:"proto"`
	Frontend string `json:"frontend"`
	Backend  string `json:"backend"`
	Name     string `json:"name"`
	TTL      string `json:"ttl"` // empty: it does not end
}

func (a *addition) mapping(now time.Time) (nat.Mapping, error) {
	m, err := nat.ParseMapping(a.Proto, a.Frontend, a.Backend)
	if err != nil {
		return m, err
	}
	m.Name = a.Name
	if a.TTL != "" {
		ttl, err := nat.ParseTTL(a.TTL)
		if err != nil {
			return m, err
		}
		m.Expires = now.Add(ttl).UTC().Truncate(time.Millisecond)
	}
	return m, m.Validate()
}

func (s *server) add(w http.ResponseWriter, r *http.Request) {
	if !s.authorized(w, r) {
		return
	}
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != typeJSON {
		s.refuse(w, http.StatusUnsupportedMediaType, api.CodeUnsupported, "the body is not "+typeJSON)
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(headerTimeout))
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	var doc addition
	err := d.Decode(&doc)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the document")
		}
	}
	if err != nil {
		s.refuse(w, http.StatusBadRequest, api.CodeInvalid, "read body: "+err.Error())
		return
	}
	m, err := doc.mapping(time.Now())
	if err != nil {
		s.fail(w, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), explainTimeout)
	defer cancel()
	ms, err := s.Daemon.Publish(ctx, nat.PublishOptions{}, m)
	if err != nil {
		s.fail(w, err)
		return
	}
	s.changedBy(r, "published by the page", ms, http.StatusCreated, w)
}

// remove removes a mapping if it still has the name and the backend that the client has seen. A range is
// removed as a whole.
func (s *server) remove(w http.ResponseWriter, r *http.Request) {
	if !s.authorized(w, r) {
		return
	}
	proto, frontend, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/mappings/"), "/")
	query := r.URL.Query()
	names, backends := query["name"], query["backend"]
	if len(names) != 1 || len(backends) != 1 {
		s.refuse(w, http.StatusBadRequest, api.CodeInvalid, `the parameters "name" and "backend" say what is removed`)
		return
	}
	m, err := nat.ParseMapping(proto, frontend, backends[0])
	if err != nil {
		s.fail(w, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), explainTimeout)
	defer cancel()
	if names[0] == "" { // which the daemon does not compare
		if err := s.nameless(ctx, m); err != nil {
			s.fail(w, err)
			return
		}
	}
	ms, err := s.Daemon.Remove(ctx, nat.Removal{Mappings: []nat.Mapping{m}, Exact: true, Name: names[0]})
	if err != nil {
		s.fail(w, err)
		return
	}
	s.changedBy(r, "unpublished by the page", ms, http.StatusOK, w)
}

// nameless returns an error if a mapping has a name.
func (s *server) nameless(ctx context.Context, m nat.Mapping) error {
	ms, err := s.Daemon.Mappings(ctx)
	if err != nil {
		return err
	}
	for _, x := range ms {
		if within(nat.Mapping{Proto: m.Proto, Frontend: m.Frontend}, x) && x.Name != "" {
			return &api.Problem{
				Type: "about:blank", Title: http.StatusText(http.StatusNotFound), Status: http.StatusNotFound, Code: api.CodeNotFound,
				Detail: "unpublish " + nat.DescribeFrontend(m) + ": it has a name now",
			}
		}
	}
	return nil
}

// changedBy logs a change, and answers with its mappings.
func (s *server) changedBy(r *http.Request, what string, ms []nat.Mapping, status int, w http.ResponseWriter) {
	for _, m := range ms {
		s.Log.Info(what, "mapping", m.String(), "name", m.Name, "client", r.RemoteAddr)
	}
	body := encode(api.Ranges(ms))
	w.Header().Set("Content-Type", typeJSON)
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may have gone
}
