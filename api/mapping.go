// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// Mapping is one published port, or a range of them. A range has one Mapping for each port,
// unless the request has the parameter "ranges".
type Mapping struct {
	// Proto is "tcp" or "udp".
	Proto string `json:"proto"`
	// Host is the local address of the frontend. Empty: any address. 0.0.0.0 and ::
	// are any address of that family alone.
	Host string `json:"host"`
	// Port is the frontend's, 1 to 65535, the first one of a range.
	Port uint16 `json:"port"`
	// Last is the last port of a range. Absent: it is a single port.
	Last uint16 `json:"last,omitempty"`
	// Backend is address and port, an IPv6 address in brackets. The ports of a range lead to
	// consecutive ports of the backend, from this one on.
	Backend string `json:"backend"`
	// Name is that of the owner; empty: none was given.
	Name string `json:"name"`
	// Proxy is whether a userland proxy serves it where netfilter cannot.
	Proxy bool `json:"proxy"`
	// ProxyOnly is whether the proxy alone serves it, and Masquerade whether netfilter gives
	// clients the host's address towards the backend. Absent: false.
	ProxyOnly  bool `json:"proxy_only,omitempty"`
	Masquerade bool `json:"masquerade,omitempty"`
	// From are the prefixes from which clients may reach it. Absent: anyone may.
	From []string `json:"from,omitempty"`
	// Hold is "shared" if another program may have the port. Absent: it is held.
	Hold string `json:"hold,omitempty"`
	// Expires is when it ends by itself. Absent: never.
	Expires *time.Time `json:"expires,omitempty"`
}

// Mappings are the documents of the mappings, ranges expanded.
func Mappings(ms []nat.Mapping) []Mapping {
	docs := make([]Mapping, 0, len(ms)) // never nil: an empty array, not null
	for _, m := range ms {
		for single := range nat.Expand(m) {
			docs = append(docs, mapping(single))
		}
	}
	return docs
}

// Ranges are the documents of the mappings, each range as one.
func Ranges(ms []nat.Mapping) []Mapping { return documents(ms, mapping) }

// mappingDocs returns the form in which mappings are asked for.
func mappingDocs(ms []nat.Mapping, ranges bool) []Mapping {
	if ranges {
		return Ranges(ms)
	}
	return Mappings(ms)
}

func mapping(m nat.Mapping) Mapping {
	doc := Mapping{
		Proto: m.Proto.String(), Host: addrText(m.Frontend.Addr()), Port: m.Frontend.Port(),
		Backend: m.Backend.String(), Name: m.Name, Proxy: !m.NoProxy,
		ProxyOnly: m.ProxyOnly, Masquerade: m.Masquerade, From: m.From.Texts(),
	}
	if m.Hold != nat.HoldOwn {
		doc.Hold = m.Hold.String()
	}
	if m.More != 0 {
		doc.Last = m.Frontend.Port() + m.More
	}
	if !m.Expires.IsZero() {
		doc.Expires = &m.Expires
	}
	return doc
}

// request is the document of a mapping that a client asks for: a [Mapping] with more optional
// fields, or a range of them. Numbers are wider than their limits, so that the error for one
// out of range says so.
type request struct {
	Proto      string    `json:"proto"`
	Host       string    `json:"host,omitempty"`
	Port       int64     `json:"port,omitempty"` // 0: the next free one
	Last       *int64    `json:"last,omitempty"` // of a range; nil: count says it
	Backend    string    `json:"backend"`        // without a port: that of the frontend
	Name       string    `json:"name,omitempty"`
	Proxy      *bool     `json:"proxy,omitempty"`      // nil: true
	ProxyOnly  *bool     `json:"proxy_only,omitempty"` // nil: false
	Masquerade *bool     `json:"masquerade,omitempty"` // nil: false
	From       *[]string `json:"from,omitempty"`       // nil: anyone
	Hold       *string   `json:"hold,omitempty"`       // nil: own
	Expires    *string   `json:"expires,omitempty"`
	Count      *int64    `json:"count,omitempty"` // of consecutive ports; nil: 1
	TTL        *string   `json:"ttl,omitempty"`   // as nat.ParseTTL reads it, in place of expires
}

func requestFields() []string {
	return []string{"proto", "host", "port", "last", "backend", "name", "proxy", "proxy_only", "masquerade", "from", "hold", "expires", "count", "ttl"}
}

func requests(ms []nat.Mapping) []request { return documents(ms, requestOf) }

func requestOf(m nat.Mapping) request {
	r := request{
		Proto: m.Proto.String(), Host: addrText(m.Frontend.Addr()), Port: int64(m.Frontend.Port()),
		Backend: m.Backend.String(), Name: m.Name,
	}
	if m.NoProxy {
		r.Proxy = new(bool)
	}
	yes := true
	if m.ProxyOnly {
		r.ProxyOnly = &yes
	}
	if m.Masquerade {
		r.Masquerade = &yes
	}
	if texts := m.From.Texts(); texts != nil {
		r.From = &texts
	}
	if m.Hold != nat.HoldOwn {
		hold := m.Hold.String()
		r.Hold = &hold
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

// mapping returns the mapping that the document asks for. It checks the form only, as the
// parsers of package nat do; its errors are nat.ErrInvalid.
func (r *request) mapping(now time.Time) (nat.Mapping, error) {
	if r.Port < 0 || r.Port > math.MaxUint16 {
		return nat.Mapping{}, invalid("port", strconv.FormatInt(r.Port, 10), "it is not 0 to 65535")
	}
	m, err := parsePlain(r.Proto, r.Host, uint16(r.Port), r.Backend)
	if err != nil {
		frontend := strconv.FormatInt(r.Port, 10)
		if r.Host != "" {
			frontend = joinHostPort(r.Host, frontend)
		}
		if m, err = nat.ParseMapping(r.Proto, frontend, r.Backend); err != nil {
			return nat.Mapping{}, err
		}
	}
	if m.More != 0 {
		return nat.Mapping{}, invalid("backend", r.Backend, "a range is asked for by last or count")
	}
	if r.Last != nil {
		switch {
		case r.Count != nil:
			return nat.Mapping{}, invalid("last", strconv.FormatInt(*r.Last, 10), "there is count as well")
		case r.Port == 0:
			return nat.Mapping{}, invalid("last", strconv.FormatInt(*r.Last, 10), "without a first port a range is asked for by count")
		case *r.Last < r.Port || *r.Last > math.MaxUint16:
			return nat.Mapping{}, invalid("last", strconv.FormatInt(*r.Last, 10), fmt.Sprintf("it is not %d to 65535", r.Port))
		}
		m.More = uint16(*r.Last - r.Port)
	}
	if r.Count != nil {
		if *r.Count < 1 || *r.Count > math.MaxUint16 {
			return nat.Mapping{}, invalid("count", strconv.FormatInt(*r.Count, 10), "it is not 1 to 65535")
		}
		m.More = uint16(*r.Count - 1)
	}
	m.Name = r.Name
	m.NoProxy = r.Proxy != nil && !*r.Proxy
	m.ProxyOnly = r.ProxyOnly != nil && *r.ProxyOnly
	m.Masquerade = r.Masquerade != nil && *r.Masquerade
	if r.From != nil {
		if len(*r.From) == 0 {
			return nat.Mapping{}, invalid("from", "[]", "it names nobody; without it anyone may reach the mapping")
		}
		if m.From, err = nat.ParseSources(*r.From...); err != nil {
			return nat.Mapping{}, err
		}
	}
	if r.Hold != nil {
		if m.Hold, err = nat.ParseHold(*r.Hold); err != nil {
			return nat.Mapping{}, err
		}
	}
	m.Expires, err = r.expires(now)
	return m, err
}

// parsePlain reads a mapping in the form in which this package writes it. It fails for other
// forms that are valid; the parsers of package nat read those, and explain what is invalid.
func parsePlain(protoText, host string, port uint16, backendText string) (m nat.Mapping, err error) {
	proto, err := nat.ParseProto(protoText)
	if err != nil {
		return m, err
	}
	backend, err := netip.ParseAddrPort(backendText)
	if err != nil {
		return m, err
	}
	var addr netip.Addr
	if host != "" {
		if addr, err = netip.ParseAddr(host); err != nil {
			return m, err
		}
	}
	if backend.Addr().Zone() != "" || addr.Zone() != "" || backendText[strings.LastIndexByte(backendText, ':')+1] == '0' {
		return m, invalid("backend", backendText, "it has a zone or its port begins with 0")
	}
	return nat.Mapping{
		Proto: proto, Frontend: netip.AddrPortFrom(addr.Unmap(), port),
		Backend: netip.AddrPortFrom(backend.Addr().Unmap(), backend.Port()),
	}, nil
}

// expires returns the end of the mapping in milliseconds, like the engine, so that all answers
// are the same.
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
		if at.IsZero() { // which means never
			return time.Time{}, invalid("expires", *r.Expires, "it is over")
		}
		return at, nil
	}
	return time.Time{}, nil
}

func invalid(what, input, reason string) error {
	return &nat.InvalidError{What: what, Input: input, Reason: reason}
}

// joinHostPort is net.JoinHostPort for text that may be no address: the parser explains it.
func joinHostPort(host, port string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]:" + port
	}
	return host + ":" + port
}

// Value returns the mapping that the document of an event or an answer describes.
func (m *Mapping) Value() (nat.Mapping, error) { return m.mapping() }

// mapping returns the mapping that the document describes.
func (m *Mapping) mapping() (nat.Mapping, error) {
	s, err := parsePlain(m.Proto, m.Host, m.Port, m.Backend)
	if err != nil {
		return nat.Mapping{}, fmt.Errorf("read mapping: %w", err)
	}
	if m.Last != 0 {
		s.More = m.Last - m.Port
		if m.Last < m.Port || int(s.Backend.Port())+int(s.More) > math.MaxUint16 {
			return nat.Mapping{}, fmt.Errorf("read mapping: %d is not the last port of a range from %d on", m.Last, m.Port)
		}
	}
	s.Name, s.NoProxy, s.ProxyOnly, s.Masquerade = m.Name, !m.Proxy, m.ProxyOnly, m.Masquerade
	if s.From, err = nat.ParseSources(m.From...); err != nil {
		return nat.Mapping{}, fmt.Errorf("read mapping: %w", err)
	}
	if m.Hold != "" {
		if s.Hold, err = nat.ParseHold(m.Hold); err != nil {
			return nat.Mapping{}, fmt.Errorf("read mapping: %w", err)
		}
	}
	if m.Expires != nil {
		s.Expires = m.Expires.UTC()
	}
	return s, nil
}

func mappings(docs []Mapping) ([]nat.Mapping, error) { return parseAll(docs, (*Mapping).mapping) }

// documents returns the documents of values; an empty array, not null, if there are none.
func documents[T, D any](values []T, document func(T) D) []D {
	docs := make([]D, len(values))
	for i, v := range values {
		docs[i] = document(v)
	}
	return docs
}

// parseAll returns the values that documents describe; nil if there are none.
func parseAll[D, T any](docs []D, parse func(*D) (T, error)) ([]T, error) {
	values := slices.Grow([]T(nil), len(docs))
	for i := range docs {
		v, err := parse(&docs[i])
		if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	return values, nil
}

// whole returns the mapping whose ports have these documents; of none, the zero Mapping.
func whole(docs []Mapping) (nat.Mapping, error) {
	ms, err := mappings(docs)
	if err != nil || len(ms) == 0 {
		return nat.Mapping{}, err
	}
	ms = slices.Clip(nat.Collapse(ms))
	if len(ms) != 1 {
		return nat.Mapping{}, fmt.Errorf("read change: %s and %s are one side of it", ms[0], ms[1])
	}
	return ms[0], nil
}
