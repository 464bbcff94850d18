// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/nat"
)

// Encode writes s as YAML so that [Decode] reads the same: in canonical order, which is
// by name for networks and endpoints, and with ranges collapsed ([nat.Collapse]). Of a
// state that Decode would refuse it writes nothing: the error is that of
// [nat.ValidateAll], or an [*nat.InvalidError]. Errors of w are wrapped.
func Encode(w io.Writer, s nat.State) error {
	if bad := (&document{state: s}).validate(); bad != nil {
		return fmt.Errorf("encode state: %w", bad.Err)
	}
	e := newEncoder(s, false)
	e.add(endPromise + "\nversion: " + fileVersion + "\n")
	e.sections(s)
	e.add(endMark + "\n")
	if _, err := w.Write(e.b); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

// encodeFile returns the text of a [File]: JSON, an item a line, and before all else the
// checksum of what follows it.
func encodeFile(s nat.StoredState) ([]byte, error) {
	bad := (&document{state: s.State}).validate()
	if bad == nil {
		bad = (&document{state: s.Removed}).validateRemoved()
	}
	if bad != nil {
		return nil, fmt.Errorf("encode state: %w", bad.Err)
	}
	e := newEncoder(s.State, true)
	e.b = slices.Grow(e.b, 48*len(s.Removed.Mappings))
	e.add("{\n\"checksum\":\"")
	start := len(e.b)
	end := start + hex.EncodedLen(sha256.Size) + len(`"`)
	e.b = append(e.b[:end-1], '"')
	if s.Table != "" {
		e.add(",\n\"table\":")
		e.text(s.Table, false)
	}
	e.removed(s.Removed)
	e.add(",\n\"version\":" + fileVersion)
	e.sections(s.State)
	e.add("\n}\n")
	if len(e.b) > maxFile {
		return nil, tooLarge("state", maxFile)
	}
	sum := sha256.Sum256(e.b[end:])
	hex.Encode(e.b[start:], sum[:])
	return e.b, nil
}

// EncodeMapping returns a mapping, or a range, as an item of the list of mappings in YAML.
func EncodeMapping(m nat.Mapping) string {
	e := newEncoder(nat.State{}, false)
	e.mapping(&m)
	return string(e.b)
}

// encoder appends YAML or JSON to b.
type encoder struct {
	json bool
	b    []byte
}

// newEncoder returns an encoder with about the memory that it will need.
func newEncoder(s nat.State, json bool) *encoder {
	size := 1<<10 + 32*len(s.Mappings)
	for i := range s.Mappings {
		if m := &s.Mappings[i]; m.Name != "" || !m.Expires.IsZero() {
			size += 32 + len(m.Name)
		}
	}
	return &encoder{json: json, b: make([]byte, 0, size)}
}

func (e *encoder) add(text string) { e.b = append(e.b, text...) }

func (e *encoder) sections(s nat.State) {
	ns := order.Sorted(slices.Values(s.Networks), byNetworkName)
	e.list("networks", len(ns), func(i int) { e.network(ns[i]) })
	as := order.Sorted(slices.Values(s.Endpoints), byEndpointName)
	e.list("endpoints", len(as), func(i int) { e.endpoint(as[i]) })
	ms := nat.Collapse(s.Mappings)
	e.list("mappings", len(ms), func(i int) { e.mapping(&ms[i]) })
}

func byNetworkName(a, b nat.Network) int { return strings.Compare(a.Name, b.Name) }

func byEndpointName(a, b nat.EndpointSpec) int { return strings.Compare(a.Name, b.Name) }

// list writes a section of n items. That there are no mappings is written too, or somebody
// might think that they were forgotten.
func (e *encoder) list(key string, n int, item func(i int)) {
	if n == 0 && key != "mappings" {
		return
	}
	begin, before, between, end := key+":", "\n  - ", "", "\n"
	if n == 0 {
		begin += " []"
	}
	if e.json {
		begin, before, between, end = ",\n\""+key+`":[`, "\n", ",", "]"
		if n > 0 {
			end = "\n]"
		}
	}
	e.add(begin)
	for i := range n {
		if i > 0 {
			e.add(between)
		}
		e.add(before)
		item(i)
	}
	e.add(end)
}

// removed writes what was removed, in the order in which it is, as one line: versions that
// do not know the key read the file without that line.
func (e *encoder) removed(s nat.State) {
	if len(s.Networks)+len(s.Endpoints)+len(s.Mappings) == 0 {
		return
	}
	e.add(",\n\"removed\":{")
	items := func(key string, n int, item func(i int)) {
		if n == 0 {
			return
		}
		e.key(key)
		e.add("[")
		for i := range n {
			if i > 0 {
				e.add(",")
			}
			item(i)
		}
		e.add("]")
	}
	items("networks", len(s.Networks), func(i int) { e.network(s.Networks[i]) })
	items("endpoints", len(s.Endpoints), func(i int) { e.endpoint(s.Endpoints[i]) })
	items("mappings", len(s.Mappings), func(i int) { e.mapping(&s.Mappings[i]) })
	e.add("}")
}

func (e *encoder) network(n nat.Network) {
	e.add("{")
	e.name("name", n.Name)
	e.addr("prefix", n.Prefix.String())
	if n.Gateway.IsValid() {
		e.addr("gateway", n.Gateway.String())
	}
	if n.Next.IsValid() {
		e.addr("next", n.Next.String())
	}
	e.not("masquerade", n.NoMasquerade)
	e.not("guard", n.NoGuard)
	e.add("}")
}

func (e *encoder) endpoint(a nat.EndpointSpec) {
	e.add("{")
	e.name("name", a.Name)
	if a.Network != "" {
		e.name("network", a.Network)
	}
	e.addr("address", a.Address.String())
	for i, m := range nat.Collapse(a.Mappings(a.Address)) {
		if i == 0 {
			e.key("ports")
			e.add("[")
		} else {
			e.comma()
		}
		spec := nat.PortSpec{Proto: m.Proto, Frontend: m.Frontend, Backend: m.Backend.Port(), More: m.More}
		// Quoted, for YAML 1.1 has numbers to the base of 60 (tag:yaml.org,2002:int).
		e.text(spec.String(), false)
	}
	if len(a.Ports) > 0 {
		e.add("]")
	}
	e.add("}")
}

func (e *encoder) mapping(m *nat.Mapping) {
	object := m.Name != "" || m.NoProxy || m.ProxyOnly || m.Masquerade || !m.From.IsZero() || m.Hold != nat.HoldOwn || !m.Expires.IsZero()
	if object {
		e.add("{")
		e.key("mapping")
	}
	// Where YAML would read a bracket as that of a list, the text is quoted.
	if quoted := e.json || object || m.Frontend.Addr().Is6(); quoted {
		e.b = append(m.AppendTo(append(e.b, '"')), '"')
	} else {
		e.b = m.AppendTo(e.b)
	}
	if !object {
		return
	}
	if m.Name != "" {
		e.name("name", m.Name)
	}
	e.not("proxy", m.NoProxy)
	e.is("proxy_only", m.ProxyOnly)
	e.is("masquerade", m.Masquerade)
	e.sources(m.From)
	if m.Hold != nat.HoldOwn {
		e.key("hold")
		e.text(m.Hold.String(), true)
	}
	if !m.Expires.IsZero() {
		e.key("expires")
		e.text(m.Expires.UTC().Format(time.RFC3339Nano), true)
	}
	e.add("}")
}

func (e *encoder) comma() {
	if e.b = append(e.b, ','); !e.json {
		e.b = append(e.b, ' ')
	}
}

// key writes a key of an object and its colon.
func (e *encoder) key(key string) {
	if e.b[len(e.b)-1] != '{' {
		e.comma()
	}
	if e.json {
		e.b = append(append(append(e.b, '"'), key...), `":`...)
	} else {
		e.b = append(append(e.b, key...), ": "...)
	}
}

// not writes a field that is true unless a file says that it is false.
func (e *encoder) not(key string, is bool) {
	if is {
		e.key(key)
		e.add("false")
	}
}

// is writes a field that is false unless a file says that it is true.
func (e *encoder) is(key string, is bool) {
	if is {
		e.key(key)
		e.add("true")
	}
}

func (e *encoder) sources(from nat.Sources) {
	for i, text := range from.Texts() {
		if i == 0 {
			e.key("from")
			e.add("[")
		} else {
			e.comma()
		}
		e.text(text, false)
	}
	if !from.IsZero() {
		e.add("]")
	}
}

func (e *encoder) name(key, name string) {
	e.key(key)
	e.text(name, isWord(name))
}

// addr writes an address or a prefix. In YAML a colon at the end of a plain scalar, as in
// fd00::, would make a key of it.
func (e *encoder) addr(key, addr string) {
	e.key(key)
	e.text(addr, !strings.Contains(addr, ":"))
}

// text writes a text, in YAML without quotes if it is plain. Between quotes it escapes
// what might not survive (YAML 1.2 section 7.3.1, RFC 8259 section 7).
func (e *encoder) text(text string, plain bool) {
	switch {
	case plain && e.json:
		e.b = append(append(append(e.b, '"'), text...), '"')
		return
	case plain:
		e.add(text)
		return
	}
	e.b = append(e.b, '"')
	for _, r := range text {
		switch {
		case r == '\\', r == '"':
			e.b = append(e.b, '\\', byte(r))
		case unicode.IsPrint(r) || e.json && r > 0xffff: // for which JSON has no escape of its own
			e.b = utf8.AppendRune(e.b, r)
		case r <= 0xffff:
			e.b = fmt.Appendf(e.b, `\u%04X`, r)
		default:
			e.b = fmt.Appendf(e.b, `\U%08X`, r)
		}
	}
	e.b = append(e.b, '"')
}

// isWord reports whether YAML of any version reads s, unquoted and in an
// object, as just that string: letters, digits, - and _ after a letter, and
// none of the words that are or once were booleans and null (YAML 1.1 has
// "yes", "on" and "n").
func isWord(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20 // lower case, for letters
		letter := c >= 'a' && c <= 'z'
		if !letter && (i == 0 || s[i] != '-' && s[i] != '_' && (s[i] < '0' || s[i] > '9')) {
			return false
		}
	}
	switch strings.ToLower(s) {
	case "", "null", "true", "false", "yes", "no", "on", "off", "y", "n":
		return false
	}
	return true
}
