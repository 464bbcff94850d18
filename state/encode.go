// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bufio"
	"fmt"
	"io"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nftnat/nftnat/engine"
)

// The pieces of an item that has more to say than its text. decodePlain knows
// them in this spelling and order.
const (
	objectStart   = `{mapping: "`
	objectName    = `, name: `
	objectNoProxy = `, proxy: false`
	objectExpires = `, expires: `
)

// Encode writes f so that [Decode] reads the same mappings: in canonical
// order, and with ranges collapsed ([engine.Collapse]). A file that Decode
// would refuse is not begun: the error is that of [engine.ValidateAll], or an
// [*engine.InvalidError] for a mapping with frontend port 0. Errors of w are
// wrapped; what was written by then is of no use.
func Encode(w io.Writer, f File) error {
	if err := engine.ValidateAll(f.Mappings...); err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	for i := range f.Mappings {
		if m := &f.Mappings[i]; m.Frontend.Port() == 0 {
			return fmt.Errorf("encode state: %w", &engine.InvalidError{
				What: keyMapping, Input: m.String(), Reason: "frontend 0 asks for a free port, and a file says which"})
		}
	}
	b := bufio.NewWriterSize(w, 32<<10)
	head := keyMappings + ":\n"
	if len(f.Mappings) == 0 {
		head = keyMappings + ": []\n"
	}
	_, err := b.WriteString(head)
	var line []byte
	for _, m := range engine.Collapse(f.Mappings) {
		if err != nil {
			break
		}
		line = append(appendItem(append(line[:0], "  - "...), m), '\n')
		_, err = b.Write(line)
	}
	if err == nil {
		err = b.Flush()
	}
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

func appendItem(b []byte, m engine.Mapping) []byte {
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
		b = m.Expires.AppendFormat(b, time.RFC3339Nano)
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
