// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package igd

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/nftnat/nftnat/gateway/internal/lease"
)

const (
	contentType = `text/xml; charset="utf-8"`
	maxBody     = 64 << 10
)

// ServeHTTP answers a client: descriptions, control and events.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header()["Server"] = []string{product}
	w.Header().Set("Connection", "close") // others may wait for it, and who has got an answer seldom asks again at once
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		http.Error(w, "no address", http.StatusBadRequest)
		return
	}
	client := peer.Addr().Unmap()
	if !s.isHost(r.Host) {
		// The page of a name that leads here would have the browser speak for it.
		s.leases.Refuse(lease.IGD, client, r.Method, "Host is not an address of this gateway")
		http.Error(w, "Host is not an address of this gateway", http.StatusMisdirectedRequest)
		return
	}
	if text, ok := s.documents[r.URL.Path]; ok {
		if !allow(w, r, http.MethodGet, http.MethodHead) {
			return
		}
		w.Header().Set("Content-Type", contentType)
		_, _ = io.WriteString(w, text) // of a client that has gone
		return
	}
	for _, d := range s.tree {
		switch r.URL.Path {
		case d.service.path:
			if allow(w, r, http.MethodPost) {
				s.control(w, r, d.service, client)
			}
			return
		case d.service.events():
			if !allow(w, r, "SUBSCRIBE", "UNSUBSCRIBE") {
				return
			}
			local, ok := localAddr(r)
			if !ok {
				http.Error(w, "no address", http.StatusInternalServerError)
				return
			}
			s.publisher.serve(w, r, d.service, client, local)
			return
		}
	}
	http.NotFound(w, r)
}

// allow refuses other methods.
func allow(w http.ResponseWriter, r *http.Request, methods ...string) bool {
	if slices.Contains(methods, r.Method) {
		return true
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
	return false
}

func localAddr(r *http.Request) (netip.Addr, bool) {
	a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return netip.Addr{}, false
	}
	ap, err := netip.ParseAddrPort(a.String())
	return ap.Addr().Unmap(), err == nil
}

// isHost returns whether the field Host is an address of the LAN's devices, with our port or none.
func (s *Server) isHost(host string) bool {
	a, err := netip.ParseAddrPort(host)
	if err == nil {
		if a.Port() != s.port {
			return false
		}
	} else {
		only, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
		if err != nil {
			return false
		}
		a = netip.AddrPortFrom(only, s.port)
	}
	for _, d := range s.lan.Devices() {
		for _, p := range d.Addrs {
			if p.Addr().WithZone("") == a.Addr().WithZone("") {
				return true
			}
		}
	}
	return false
}

// control does an action of a service (UDA 1.1, 3.2).
func (s *Server) control(w http.ResponseWriter, r *http.Request, to *service, client netip.Addr) {
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(kind), "text/xml") {
		http.Error(w, "Content-Type is not text/xml", http.StatusUnsupportedMediaType)
		return
	}
	if r.ContentLength > maxBody {
		http.Error(w, http.StatusText(http.StatusRequestEntityTooLarge), http.StatusRequestEntityTooLarge)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	switch {
	case err != nil:
		http.Error(w, "read the request: "+err.Error(), http.StatusBadRequest)
		return
	case len(body) > maxBody:
		http.Error(w, http.StatusText(http.StatusRequestEntityTooLarge), http.StatusRequestEntityTooLarge)
		return
	}
	text, f := s.call(r, to, client, string(body))
	h := w.Header()
	h.Set("Content-Type", contentType)
	h["Ext"] = []string{""}
	if f != nil {
		w.WriteHeader(http.StatusInternalServerError)
		text = f.answer()
	}
	_, _ = io.WriteString(w, text) // of a client that has gone
}

// call does an action and returns its answer, or the fault.
func (s *Server) call(r *http.Request, to *service, client netip.Addr, body string) (string, *fault) {
	c := &call{ctx: r.Context(), server: s, client: client, service: to}
	a, space, f := c.parse(r.Header.Get("SOAPACTION"), body)
	if f == nil {
		f = a.do(c)
	}
	if f != nil {
		if !c.recorded && !f.absent() {
			name := ""
			if a != nil {
				name = a.name
			}
			s.leases.Refuse(lease.IGD, client, name, f.String())
		}
		return "", f
	}
	return c.answer(a, space), nil
}
