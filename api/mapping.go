// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// Mapping is one published port. A range is told as one Mapping a port.
type Mapping struct {
	// Proto is "tcp" or "udp".
	Proto string `json:"proto"`
	// Host is the local address of the frontend. Empty: any address. 0.0.0.0 and ::
	// are any address of that family alone.
	Host string `json:"host"`
	// Port is the frontend's, 1 to 65535.
	Port uint16 `json:"port"`
	// Backend is address and port, an IPv6 address in brackets.
	Backend string `json:"backend"`
	// Name is whose the mapping is; empty: nobody has said.
	Name string `json:"name"`
	// Proxy is whether a userland proxy serves it where netfilter cannot.
	Proxy bool `json:"proxy"`
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

func mapping(m nat.Mapping) Mapping {
	doc := Mapping{
		Proto:   m.Proto.String(),
		Port:    m.Frontend.Port(),
		Backend: m.Backend.String(),
		Name:    m.Name,
		Proxy:   !m.NoProxy,
	}
	if host := m.Frontend.Addr(); host != (netip.Addr{}) {
		doc.Host = host.String()
	}
	if !m.Expires.IsZero() {
		doc.Expires = &m.Expires
	}
	return doc
}

// appendMappings appends the document of the mappings in JSON, as encoding/json writes
// Mappings(ms).
func appendMappings(b []byte, ms []nat.Mapping) []byte {
	b = append(b, '[')
	for _, m := range ms {
		for single := range nat.Expand(m) {
			if b[len(b)-1] != '[' {
				b = append(b, ',')
			}
			b = appendMapping(b, &single)
		}
	}
	return append(b, ']')
}

func appendMapping(b []byte, m *nat.Mapping) []byte {
	b = append(b, `{"proto":"`...)
	b = append(b, m.Proto.String()...)
	b = append(b, `","host":"`...)
	if host := m.Frontend.Addr(); host.IsValid() {
		b = host.AppendTo(b)
	}
	b = append(b, `","port":`...)
	b = strconv.AppendUint(b, uint64(m.Frontend.Port()), 10)
	b = append(b, `,"backend":"`...)
	b = m.Backend.AppendTo(b)
	b = append(b, `","name":`...)
	b = appendString(b, m.Name)
	b = append(b, `,"proxy":`...)
	b = strconv.AppendBool(b, !m.NoProxy)
	if !m.Expires.IsZero() {
		b = append(b, `,"expires":"`...)
		b = append(m.Expires.AppendFormat(b, time.RFC3339Nano), '"')
	}
	return append(b, '}')
}

// appendString appends a string in JSON.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			var text bytes.Buffer
			enc := json.NewEncoder(&text)
			enc.SetEscapeHTML(false)
			_ = enc.Encode(s) // every string can be encoded
			return append(b, bytes.TrimSuffix(text.Bytes(), []byte("\n"))...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// scanMappings reads what appendMappings has written. It is not ok for the same in another
// form, or with other fields, which encoding/json reads.
func scanMappings(rest string) (ms []nat.Mapping, ok bool) {
	rest = strings.TrimSuffix(rest, "\n")
	if rest, ok = strings.CutPrefix(rest, "["); !ok {
		return nil, false
	}
	ms = make([]nat.Mapping, 0, len(rest)/80) // one has some 90 bytes
	for rest != "]" {
		s := scanner{rest: rest}
		doc := Mapping{Proto: s.field(`{"proto":"`, '"'), Host: s.field(`,"host":"`, '"')}
		port := s.field(`,"port":`, ',')
		doc.Backend, doc.Name = s.field(`"backend":"`, '"'), s.field(`,"name":"`, '"')
		doc.Proxy = !s.skip(`,"proxy":false`) && s.must(`,"proxy":true`)
		if s.skip(`,"expires":"`) {
			at, err := time.Parse(time.RFC3339, s.field("", '"'))
			doc.Expires, s.failed = &at, s.failed || err != nil
		}
		s.must("}")
		n, err := strconv.ParseUint(port, 10, 16)
		doc.Port = uint16(n)
		m, singleErr := doc.single()
		more := s.skip(",")
		if rest = s.rest; s.failed || err != nil || len(port) > 1 && port[0] == '0' || singleErr != nil || more == (rest == "]") {
			return nil, false
		}
		ms = append(ms, m)
	}
	return ms, true
}

// scanner takes a text apart from its beginning.
type scanner struct {
	rest   string
	failed bool
}

func (s *scanner) skip(prefix string) (ok bool) {
	s.rest, ok = strings.CutPrefix(s.rest, prefix)
	return ok
}

func (s *scanner) must(prefix string) bool {
	ok := s.skip(prefix)
	s.failed = s.failed || !ok
	return ok
}

// field returns what is between the prefix and the byte, in which nothing is escaped.
func (s *scanner) field(prefix string, end byte) (value string) {
	s.must(prefix)
	i := strings.IndexByte(s.rest, end)
	if i < 0 {
		s.failed = true
		return ""
	}
	value, s.rest = s.rest[:i], s.rest[i+1:]
	for j := range len(value) {
		s.failed = s.failed || value[j] < ' ' || value[j] > '~' || value[j] == '\\'
	}
	return value
}
