// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nftnat/nftnat/nat"
)

// The pieces of an item that has more to say than its text. decodePlain knows
// them in this spelling and order.
const (
	objectStart   = `{mapping: "`
	objectName    = `, name: `
	objectNoProxy = `, proxy: false`
	objectExpires = `, expires: `

	namedStart         = `{name: `
	objectPrefix       = `, prefix: `
	objectGateway      = `, gateway: `
	objectNext         = `, next: `
	objectNoMasquerade = `, masquerade: false`
	objectNoGuard      = `, guard: false`

	objectNetwork = `, network: `
	objectAddress = `, address: `
	objectPorts   = `, ports: [`
	portSeparator = `, `
)

// Encode writes s so that [Decode] reads the same: in canonical order, which is by
// name for networks and endpoints, and with ranges collapsed ([nat.Collapse]). A file
// that Decode would refuse is not begun: the error is that of [nat.ValidateAll], or an
// [*nat.InvalidError]. Errors of w are wrapped; what was written by then is of no use.
func Encode(w io.Writer, s nat.State) error {
	if f := validate(s); f != nil {
		return fmt.Errorf("encode state: %w", f.err)
	}
	e := &encoder{w: bufio.NewWriterSize(w, 32<<10)}
	e.print(endPromise + "\n" + versionLine + "\n")
	if len(s.Networks) != 0 {
		e.print(keyNetworks + ":\n")
	}
	for _, n := range slices.SortedFunc(slices.Values(s.Networks), byNetworkName) {
		e.item(func(b []byte) []byte { return appendNetwork(b, n) })
	}
	if len(s.Endpoints) != 0 {
		e.print(keyEndpoints + ":\n")
	}
	for _, a := range slices.SortedFunc(slices.Values(s.Endpoints), byEndpointName) {
		e.item(func(b []byte) []byte { return appendEndpoint(b, a) })
	}
	if len(s.Mappings) != 0 {
		e.print(keyMappings + ":\n")
	} else {
		e.print(noMappings + "\n")
	}
	for _, m := range nat.Collapse(s.Mappings) {
		if e.err != nil {
			break
		}
		e.item(func(b []byte) []byte { return appendItem(b, m) })
	}
	e.print(endMark + "\n")
	if e.err == nil {
		e.err = e.w.Flush()
	}
	if e.err != nil {
		return fmt.Errorf("write state: %w", e.err)
	}
	return nil
}

// versionLine says which version of files this is.
const versionLine = keyVersion + ": " + fileVersion

// noMappings says that there are none. It is always said something of them, for
// without the key somebody might think that it was forgotten.
const noMappings = keyMappings + ": []"

func byNetworkName(a, b nat.Network) int { return strings.Compare(a.Name, b.Name) }

func byEndpointName(a, b nat.EndpointSpec) int { return strings.Compare(a.Name, b.Name) }

// encoder writes lines until one fails.
type encoder struct {
	w    *bufio.Writer
	line []byte
	err  error
}

func (e *encoder) print(text string) {
	if e.err == nil {
		_, e.err = e.w.WriteString(text)
	}
}

func (e *encoder) item(appendTo func([]byte) []byte) {
	if e.err == nil {
		e.line = append(appendTo(append(e.line[:0], "  - "...)), '\n')
		_, e.err = e.w.Write(e.line)
	}
}

func appendNetwork(b []byte, n nat.Network) []byte {
	b = appendName(append(b, namedStart...), n.Name)
	b = appendAddr(append(b, objectPrefix...), n.Prefix.String())
	if n.Gateway.IsValid() {
		b = appendAddr(append(b, objectGateway...), n.Gateway.String())
	}
	if n.Next.IsValid() {
		b = appendAddr(append(b, objectNext...), n.Next.String())
	}
	if n.NoMasquerade {
		b = append(b, objectNoMasquerade...)
	}
	if n.NoGuard {
		b = append(b, objectNoGuard...)
	}
	return append(b, '}')
}

func appendEndpoint(b []byte, a nat.EndpointSpec) []byte {
	b = appendName(append(b, namedStart...), a.Name)
	if a.Network != "" {
		b = appendName(append(b, objectNetwork...), a.Network)
	}
	b = appendAddr(append(b, objectAddress...), a.Address.String())
	if len(a.Ports) == 0 {
		return append(b, '}')
	}
	ms := make([]nat.Mapping, len(a.Ports))
	for i, spec := range a.Ports {
		ms[i] = mappingOf(a, spec)
	}
	b = append(b, objectPorts...)
	for i, m := range nat.Collapse(ms) {
		if i > 0 {
			b = append(b, portSeparator...)
		}
		spec := nat.PortSpec{Proto: m.Proto, Frontend: m.Frontend, Backend: m.Backend.Port(), More: m.More}
		// Quoted, for YAML 1.1 has numbers to the base of 60 (tag:yaml.org,2002:int).
		b = append(append(append(b, '"'), spec.String()...), '"')
	}
	return append(b, "]}"...)
}

// appendAddr writes an address or a prefix. An IPv6 one is quoted, since a colon at the
// end of a plain scalar, as in fd00::, would make a key of it.
func appendAddr(b []byte, text string) []byte {
	if strings.Contains(text, ":") {
		return append(append(append(b, '"'), text...), '"')
	}
	return append(b, text...)
}

func appendItem(b []byte, m nat.Mapping) []byte {
	if m.Name == "" && !m.NoProxy && m.Expires.IsZero() {
		if m.Frontend.Addr().Is6() { // an opening bracket would begin a flow sequence
			b = append(b, '"')
			return append(m.AppendTo(b), '"')
		}
		return m.AppendTo(b)
	}
	// In a flow mapping a bracket ends a plain scalar, so the text is quoted
	// always.
	b = append(b, objectStart...)
	b = append(m.AppendTo(b), '"')
	if m.Name != "" {
		b = append(b, objectName...)
		b = appendName(b, m.Name)
	}
	if m.NoProxy {
		b = append(b, objectNoProxy...)
	}
	if !m.Expires.IsZero() {
		b = append(b, objectExpires...)
		b = m.Expires.UTC().AppendFormat(b, time.RFC3339Nano)
	}
	return append(b, '}')
}

// appendName writes a bare word where that is safe, else a double-quoted
// scalar (YAML 1.2 section 7.3.1), with everything escaped that might not
// survive. Valid names have no double quotes.
func appendName(b []byte, name string) []byte {
	if isWord(name) {
		return append(b, name...)
	}
	b = append(b, '"')
	for _, r := range name {
		switch {
		case r == '\\':
			b = append(b, `\\`...)
		case unicode.IsPrint(r):
			b = utf8.AppendRune(b, r)
		case r <= 0xffff:
			b = fmt.Appendf(b, `\u%04X`, r)
		default:
			b = fmt.Appendf(b, `\U%08X`, r)
		}
	}
	return append(b, '"')
}
