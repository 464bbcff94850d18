// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"encoding/json"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// mappingList is the document of mappings, written a part at a time: a few ranges are many
// ports.
type mappingList struct {
	mappings iter.Seq[nat.Mapping]
	ranges   bool
}

// parts yields the document in JSON, as encoding/json writes what mappingDocs returns. Each
// part is valid until the next.
func (l *mappingList) parts(yield func([]byte) bool) {
	const size = 32 << 10
	b := append(make([]byte, 0, 256), '[')
	between := false
	write := func(m *nat.Mapping) bool {
		if between {
			b = append(b, ',')
		}
		b, between = appendMapping(b, m), true
		if len(b) < size {
			return true
		}
		ok := yield(b)
		b = b[:0]
		return ok
	}
	for m := range l.mappings {
		if l.ranges || m.More == 0 {
			if !write(&m) {
				return
			}
			continue
		}
		for single := range nat.Expand(m) {
			if !write(&single) {
				return
			}
		}
	}
	yield(append(b, ']', '\n'))
}

// WriteMappings writes the documents of the mappings as a JSON array and a newline: with
// ranges each range as one, else expanded. It does not take memory for all of them.
func WriteMappings(w io.Writer, ms []nat.Mapping, ranges bool) error {
	for part := range (&mappingList{slices.Values(ms), ranges}).parts {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
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
	if m.More != 0 {
		b = append(b, `,"last":`...)
		b = strconv.AppendUint(b, uint64(m.Frontend.Port()+m.More), 10)
	}
	b = append(b, `,"backend":"`...)
	b = m.Backend.AppendTo(b)
	b = append(b, `","name":`...)
	b = appendString(b, m.Name)
	b = append(b, `,"proxy":`...)
	b = strconv.AppendBool(b, !m.NoProxy)
	if m.ProxyOnly {
		b = append(b, `,"proxy_only":true`...)
	}
	if m.Masquerade {
		b = append(b, `,"masquerade":true`...)
	}
	if !m.From.IsZero() {
		b = append(b, `,"from":["`...)
		b = append(b, strings.Join(m.From.Texts(), `","`)...)
		b = append(b, `"]`...)
	}
	if m.Hold != nat.HoldOwn {
		b = append(b, `,"hold":"`...)
		b = append(append(b, m.Hold.String()...), '"')
	}
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
