// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nftnat/nftnat/nat"
)

// Encode writes s as YAML so that [Decode] reads the same: in canonical order, which is
// by name for networks and endpoints, and with ranges collapsed ([nat.Collapse]). A file
// that Decode would refuse is not begun: the error is that of [nat.ValidateAll], or an
// [*nat.InvalidError]. Errors of w are wrapped; what was written by then is of no use.
func Encode(w io.Writer, s nat.State) error {
	if f := validate(s); f != nil {
		return fmt.Errorf("encode state: %w", f.err)
	}
	e := &encoder{w: bufio.NewWriterSize(w, 32<<10)}
	e.print(endPromise + "\nversion: " + fileVersion + "\n")
	e.sections(s)
	e.print(endMark + "\n")
	if e.err == nil {
		e.err = e.w.Flush()
	}
	if e.err != nil {
		return fmt.Errorf("write state: %w", e.err)
	}
	return nil
}

// encodeFile returns the text of a [File]: JSON, an item a line, and before all else the
// checksum of what follows it. It has about size bytes.
func encodeFile(s nat.StoredState, size int) ([]byte, error) {
	if f := validate(s.State); f != nil {
		return nil, fmt.Errorf("encode state: %w", f.err)
	}
	var b bytes.Buffer
	b.Grow(max(size, 32*len(s.Mappings)) + 1<<10)
	e := &encoder{json: true, w: bufio.NewWriter(&b)}
	e.print("{\n\"checksum\":\"")
	start := e.w.Buffered()
	end := start + hex.EncodedLen(sha256.Size) + len(`"`)
	e.print(strings.Repeat("0", end-start-1) + `"`)
	if s.Table != "" {
		e.print(",\n" + string(e.text(e.key(nil, "table"), s.Table, false)))
	}
	e.print(",\n\"version\":" + fileVersion)
	e.sections(s.State)
	e.print("\n}\n")
	_ = e.w.Flush() // a bytes.Buffer takes everything
	if b.Len() > maxFile {
		return nil, tooLarge("state", maxFile)
	}
	sum := sha256.Sum256(b.Bytes()[end:])
	hex.Encode(b.Bytes()[start:], sum[:])
	return b.Bytes(), nil
}

func byNetworkName(a, b nat.Network) int { return strings.Compare(a.Name, b.Name) }

func byEndpointName(a, b nat.EndpointSpec) int { return strings.Compare(a.Name, b.Name) }

// encoder writes YAML or JSON until a write fails.
type encoder struct {
	json bool
	w    *bufio.Writer
	line []byte
	err  error
}

func (e *encoder) print(text string) {
	if e.err == nil {
		_, e.err = e.w.WriteString(text)
	}
}

func (e *encoder) sections(s nat.State) {
	ns := slices.SortedFunc(slices.Values(s.Networks), byNetworkName)
	e.list(networks, len(ns), func(b []byte, i int) []byte { return e.network(b, ns[i]) })
	as := slices.SortedFunc(slices.Values(s.Endpoints), byEndpointName)
	e.list(endpoints, len(as), func(b []byte, i int) []byte { return e.endpoint(b, as[i]) })
	ms := nat.Collapse(s.Mappings)
	e.list(mappings, len(ms), func(b []byte, i int) []byte { return e.mapping(b, ms[i]) })
}

// list writes a section of n items. That there are no mappings is written too, or somebody
// might think that they were forgotten.
func (e *encoder) list(s section, n int, appendItem func(b []byte, i int) []byte) {
	if n == 0 && s != mappings {
		return
	}
	begin, item, separator, end := sectionKeys[s]+":", "\n  - ", "", "\n"
	if n == 0 {
		begin += " []"
	}
	if e.json {
		begin, item, separator, end = ",\n\""+sectionKeys[s]+`":[`, "\n", ",", "]"
		if n > 0 {
			end = "\n]"
		}
	}
	e.print(begin)
	for i := 0; i < n && e.err == nil; i++ {
		e.line = e.line[:0]
		if i > 0 {
			e.line = append(e.line, separator...)
		}
		e.line = appendItem(append(e.line, item...), i)
		_, e.err = e.w.Write(e.line)
	}
	e.print(end)
}

func (e *encoder) network(b []byte, n nat.Network) []byte {
	b = e.name(e.key(append(b, '{'), "name"), n.Name)
	b = e.addr(e.key(b, "prefix"), n.Prefix.String())
	if n.Gateway.IsValid() {
		b = e.addr(e.key(b, "gateway"), n.Gateway.String())
	}
	if n.Next.IsValid() {
		b = e.addr(e.key(b, "next"), n.Next.String())
	}
	if n.NoMasquerade {
		b = append(e.key(b, "masquerade"), "false"...)
	}
	if n.NoGuard {
		b = append(e.key(b, "guard"), "false"...)
	}
	return append(b, '}')
}

func (e *encoder) endpoint(b []byte, a nat.EndpointSpec) []byte {
	b = e.name(e.key(append(b, '{'), "name"), a.Name)
	if a.Network != "" {
		b = e.name(e.key(b, "network"), a.Network)
	}
	b = e.addr(e.key(b, "address"), a.Address.String())
	if len(a.Ports) == 0 {
		return append(b, '}')
	}
	b = append(e.key(b, "ports"), '[')
	for i, m := range nat.Collapse(a.Mappings(a.Address)) {
		if i > 0 {
			b = e.comma(b)
		}
		spec := nat.PortSpec{Proto: m.Proto, Frontend: m.Frontend, Backend: m.Backend.Port(), More: m.More}
		// Quoted, for YAML 1.1 has numbers to the base of 60 (tag:yaml.org,2002:int).
		b = e.text(b, spec.String(), false)
	}
	return append(b, "]}"...)
}

func (e *encoder) mapping(b []byte, m nat.Mapping) []byte {
	said := func(b []byte, plain bool) []byte {
		if plain {
			return m.AppendTo(b)
		}
		return append(m.AppendTo(append(b, '"')), '"')
	}
	if m.Name == "" && !m.NoProxy && m.Expires.IsZero() {
		// In YAML an opening bracket would begin a list.
		return said(b, !e.json && !m.Frontend.Addr().Is6())
	}
	// In a flow mapping a bracket ends a plain scalar, so the text is quoted always.
	b = said(e.key(append(b, '{'), "mapping"), false)
	if m.Name != "" {
		b = e.name(e.key(b, "name"), m.Name)
	}
	if m.NoProxy {
		b = append(e.key(b, "proxy"), "false"...)
	}
	if !m.Expires.IsZero() {
		b = e.text(e.key(b, "expires"), m.Expires.UTC().Format(time.RFC3339Nano), true)
	}
	return append(b, '}')
}

func (e *encoder) comma(b []byte) []byte {
	if e.json {
		return append(b, ',')
	}
	return append(b, ", "...)
}

// key writes a key of an object and its colon.
func (e *encoder) key(b []byte, key string) []byte {
	if len(b) > 0 && b[len(b)-1] != '{' {
		b = e.comma(b)
	}
	if e.json {
		return append(append(append(b, '"'), key...), `":`...)
	}
	return append(append(b, key...), ": "...)
}

func (e *encoder) name(b []byte, name string) []byte { return e.text(b, name, isWord(name)) }

// addr writes an address or a prefix. In YAML a colon at the end of a plain scalar, as in
// fd00::, would make a key of it.
func (e *encoder) addr(b []byte, text string) []byte {
	return e.text(b, text, !strings.Contains(text, ":"))
}

// text writes a text between double quotes, unless this is YAML and the text is plain:
// it escapes everything that might not survive (YAML 1.2 section 7.3.1, RFC 8259 section
// 7).
func (e *encoder) text(b []byte, text string, plain bool) []byte {
	if plain && !e.json {
		return append(b, text...)
	}
	b = append(b, '"')
	for _, r := range text {
		switch {
		case r == '\\', r == '"':
			b = append(b, '\\', byte(r))
		case unicode.IsPrint(r) || e.json && r > 0xffff: // for which JSON has no escape of its own
			b = utf8.AppendRune(b, r)
		case r <= 0xffff:
			b = fmt.Appendf(b, `\u%04X`, r)
		default:
			b = fmt.Appendf(b, `\U%08X`, r)
		}
	}
	return append(b, '"')
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
