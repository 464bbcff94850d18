// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// request is the document of a mapping that is asked for: a [Mapping], of which more
// can be left out, or a range of them. Numbers are wider than they may be, so that one
// out of range is told as such and not as something that is no number.
type request struct {
	Proto   string  `json:"proto"`
	Host    string  `json:"host,omitempty"`
	Port    int64   `json:"port,omitempty"`  // 0: the next free one
	Backend string  `json:"backend"`         // without a port: that of the frontend
	Name    string  `json:"name,omitempty"`  //
	Proxy   *bool   `json:"proxy,omitempty"` // nil: true
	Expires *string `json:"expires,omitempty"`
	Count   *int64  `json:"count,omitempty"` // of consecutive ports; nil: 1
	TTL     *string `json:"ttl,omitempty"`   // as nat.ParseTTL reads it, in place of expires
}

func requestFields() []string {
	return []string{"proto", "host", "port", "backend", "name", "proxy", "expires", "count", "ttl"}
}

// requestOf asks for a mapping.
func requestOf(m nat.Mapping) request {
	r := request{
		Proto: m.Proto.String(), Port: int64(m.Frontend.Port()),
		Backend: m.Backend.String(), Name: m.Name,
	}
	if host := m.Frontend.Addr(); host != (netip.Addr{}) {
		r.Host = host.String()
	}
	if m.NoProxy {
		r.Proxy = new(bool)
	}
	if !m.Expires.IsZero() {
		at := m.Expires.UTC().Format(time.RFC3339Nano)
		r.Expires = &at
	}
	if m.More != 0 {
		count := int64(m.More) + 1
		r.Count = &count
	}
	return r
}

// mapping returns what is asked for. It checks the form only, as the parsers of
// package engine do; its errors are nat.ErrInvalid.
func (r *request) mapping(now time.Time) (nat.Mapping, error) {
	if r.Port < 0 || r.Port > math.MaxUint16 {
		return nat.Mapping{}, invalid("port", strconv.FormatInt(r.Port, 10), "it is not 0 to 65535")
	}
	m, ok := r.plain()
	if !ok {
		frontend := strconv.FormatInt(r.Port, 10)
		if r.Host != "" {
			frontend = joinHostPort(r.Host, frontend)
		}
		var err error
		if m, err = nat.ParseMapping(r.Proto, frontend, r.Backend); err != nil {
			return nat.Mapping{}, err
		}
	}
	if m.More != 0 {
		return nat.Mapping{}, invalid("backend", r.Backend, "a range is asked for by count")
	}
	if r.Count != nil {
		if *r.Count < 1 || *r.Count > math.MaxUint16 {
			return nat.Mapping{}, invalid("count", strconv.FormatInt(*r.Count, 10), "it is not 1 to 65535")
		}
		m.More = uint16(*r.Count - 1)
	}
	m.Name = r.Name
	m.NoProxy = r.Proxy != nil && !*r.Proxy
	var err error
	m.Expires, err = r.expires(now)
	return m, err
}

// plain is mapping for the form in which answers are written. It is not ok for any other
// form, and for what is wrong: the parsers of package nat say what that is.
func (r *request) plain() (m nat.Mapping, ok bool) {
	backend, err := netip.ParseAddrPort(r.Backend)
	if err != nil || backend.Addr().Zone() != "" || r.Backend[strings.LastIndexByte(r.Backend, ':')+1] == '0' {
		return nat.Mapping{}, false
	}
	var host netip.Addr
	if r.Host != "" {
		if host, err = netip.ParseAddr(r.Host); err != nil || host.Zone() != "" {
			return nat.Mapping{}, false
		}
	}
	proto, err := nat.ParseProto(r.Proto)
	return nat.Mapping{
		Proto: proto, Frontend: netip.AddrPortFrom(host.Unmap(), uint16(r.Port)),
		Backend: netip.AddrPortFrom(backend.Addr().Unmap(), backend.Port()),
	}, err == nil
}

// expires returns when it is to end: in milliseconds, like the engine, so that the
// answer says what will be said later.
func (r *request) expires(now time.Time) (time.Time, error) {
	switch {
	case r.TTL != nil && r.Expires != nil:
		return time.Time{}, invalid("ttl", *r.TTL, "there is expires as well")
	case r.TTL != nil:
		ttl, err := nat.ParseTTL(*r.TTL)
		if err != nil {
			return time.Time{}, err
		}
		return now.Add(ttl).UTC().Truncate(time.Millisecond), nil
	case r.Expires != nil:
		at, err := time.Parse(time.RFC3339, *r.Expires)
		if err != nil {
			return time.Time{}, invalid("expires", *r.Expires, "it is no time of RFC 3339")
		}
		at = at.UTC().Truncate(time.Millisecond)
		if at.IsZero() { // which would be never
			return time.Time{}, invalid("expires", *r.Expires, "it is over")
		}
		return at, nil
	}
	return time.Time{}, nil
}

func invalid(what, input, reason string) error {
	return &nat.InvalidError{What: what, Input: input, Reason: reason}
}

// joinHostPort writes a frontend as the engine's parsers read it, which say what is
// wrong with the address if it is none.
func joinHostPort(host, port string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]:" + port
	}
	return host + ":" + port
}

// single reads a mapping's document back.
func (m *Mapping) single() (e nat.Mapping, err error) {
	var host netip.Addr
	e.Proto, err = nat.ParseProto(m.Proto)
	if err == nil && m.Host != "" {
		host, err = netip.ParseAddr(m.Host)
	}
	if err == nil {
		e.Backend, err = netip.ParseAddrPort(m.Backend)
	}
	if err != nil {
		return nat.Mapping{}, fmt.Errorf("read mapping: %w", err)
	}
	e.Frontend, e.Name, e.NoProxy = netip.AddrPortFrom(host, m.Port), m.Name, !m.Proxy
	if m.Expires != nil {
		e.Expires = m.Expires.UTC()
	}
	return e, nil
}
