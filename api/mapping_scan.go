// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"strconv"
	"strings"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// scanMappings reads what WriteMappings has written. It is not ok for any other form, or with
// other fields; encoding/json reads those.
func scanMappings(rest string) (ms []nat.Mapping, ok bool) {
	rest = strings.TrimSuffix(rest, "\n")
	if rest, ok = strings.CutPrefix(rest, "["); !ok {
		return nil, false
	}
	ms = make([]nat.Mapping, 0, len(rest)/80) // one has some 90 bytes
	for rest != "]" {
		s := scanner{text: rest}
		doc := Mapping{Proto: s.field(`{"proto":"`, '"'), Host: s.field(`,"host":"`, '"')}
		s.must(`,"port":`)
		doc.Port = s.port()
		if s.skip(`"last":`) {
			doc.Last = s.port()
			s.failed = s.failed || doc.Last == 0
		}
		doc.Backend, doc.Name = s.field(`"backend":"`, '"'), s.field(`,"name":"`, '"')
		doc.Proxy = !s.skip(`,"proxy":false`) && s.must(`,"proxy":true`)
		doc.ProxyOnly, doc.Masquerade = s.skip(`,"proxy_only":true`), s.skip(`,"masquerade":true`)
		if s.skip(`,"from":["`) {
			doc.From = append(doc.From, s.field("", '"'))
			for s.skip(`,"`) {
				doc.From = append(doc.From, s.field("", '"'))
			}
			s.must("]")
		}
		if s.skip(`,"hold":"`) {
			doc.Hold = s.field("", '"')
		}
		if s.skip(`,"expires":"`) {
			at, err := time.Parse(time.RFC3339, s.field("", '"'))
			doc.Expires, s.failed = &at, s.failed || err != nil
		}
		s.must("}")
		m, err := doc.mapping()
		more := s.skip(",")
		if rest = s.text; s.failed || err != nil || more == (rest == "]") {
			return nil, false
		}
		ms = append(ms, m)
	}
	return ms, true
}

// scanner reads a text from its beginning.
type scanner struct {
	text   string
	failed bool
}

func (s *scanner) skip(prefix string) (ok bool) {
	s.text, ok = strings.CutPrefix(s.text, prefix)
	return ok
}

func (s *scanner) must(prefix string) bool {
	ok := s.skip(prefix)
	s.failed = s.failed || !ok
	return ok
}

// port returns the number before the next comma.
func (s *scanner) port() uint16 {
	text := s.field("", ',')
	n, err := strconv.ParseUint(text, 10, 16)
	s.failed = s.failed || err != nil || len(text) > 1 && text[0] == '0'
	return uint16(n)
}

// field returns the text between the prefix and the byte; it has no escapes.
func (s *scanner) field(prefix string, end byte) (value string) {
	s.must(prefix)
	i := strings.IndexByte(s.text, end)
	if i < 0 {
		s.failed = true
		return ""
	}
	value, s.text = s.text[:i], s.text[i+1:]
	for j := range len(value) {
		s.failed = s.failed || value[j] < ' ' || value[j] > '~' || value[j] == '\\'
	}
	return value
}
