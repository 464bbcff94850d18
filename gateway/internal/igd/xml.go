// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package igd

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The bounds of a document that a client sends, which has five elements and as many as an
// action has arguments.
const (
	maxDepth      = 8
	maxElements   = 64
	maxAttributes = 16
)

// An element is one of a document that was read. Its attributes are not kept.
type element struct {
	space, name string
	text        string // character data, without that of its children
	children    []*element
}

// child returns the only child of that name.
func (e *element) child(space, name string) *element {
	var found *element
	for _, c := range e.children {
		if c.space != space || c.name != name {
			continue
		}
		if found != nil {
			return nil
		}
		found = c
	}
	return found
}

var errXML = errors.New("the XML is not well-formed, or has what is not accepted here")

// parseXML reads a part of XML 1.0 with namespaces: UTF-8, names of ASCII characters, elements,
// attributes, character data with the five entities and references to characters, CDATA
// sections and comments. There is no DTD, so that no entity can be declared, and no processing
// instruction besides the declaration of XML itself.
//
// It is not encoding/xml, which accepts names without a namespace, attributes twice and more
// than one root, has no bounds, and is several times as large.
func parseXML(s string) (*element, error) {
	x := &xmlReader{in: strings.TrimPrefix(s, "\ufeff")}
	if !isText(x.in) {
		return nil, errXML
	}
	x.in = strings.ReplaceAll(strings.ReplaceAll(x.in, "\r\n", "\n"), "\r", "\n")
	if !x.declaration() {
		return nil, errXML
	}
	root, ok := x.document()
	if !ok {
		return nil, errXML
	}
	return root, nil
}

// isText returns whether all characters may be in a document (XML 1.0, 2.2).
func isText(s string) bool {
	for i, r := range s {
		if !isCharacter(r) || r == utf8.RuneError && !strings.HasPrefix(s[i:], "\ufffd") {
			return false
		}
	}
	return true
}

func isCharacter(r rune) bool {
	return r == '\t' || r == '\n' || r == '\r' || r >= 0x20 && r < 0xd800 || r >= 0xe000 && r < 0xfffe || r > 0xffff && r <= utf8.MaxRune
}

type xmlReader struct {
	in       string // what is to be read
	elements int
	scopes   []scope // namespaces in force, the innermost last
}

type scope struct{ prefix, space string }

type attribute struct{ prefix, name, value string }

const xmlSpace = " \t\n"

func (x *xmlReader) blank() bool {
	n := len(x.in)
	x.in = strings.TrimLeft(x.in, xmlSpace)
	return len(x.in) != n
}

func (x *xmlReader) skip(text string) (ok bool) {
	x.in, ok = strings.CutPrefix(x.in, text)
	return ok
}

// until returns what stands before text, and reads past it.
func (x *xmlReader) until(text string) (before string, ok bool) {
	before, x.in, ok = strings.Cut(x.in, text)
	return before, ok
}

// declaration reads <?xml version="1.0" encoding="utf-8" standalone="yes"?>, if it is there.
func (x *xmlReader) declaration() bool {
	if !strings.HasPrefix(x.in, "<?") {
		return true
	}
	if !x.skip("<?xml") {
		return false
	}
	attrs, ok := x.attributes()
	if !ok || !x.skip("?>") {
		return false
	}
	for i, name := range []string{"version", "encoding", "standalone"} {
		if len(attrs) == 0 || attrs[0].name != name || attrs[0].prefix != "" {
			if i == 0 {
				return false
			}
			continue
		}
		value := attrs[0].value
		attrs = attrs[1:]
		switch i {
		case 0:
			ok = value == "1.0"
		case 1:
			ok = strings.EqualFold(value, "utf-8")
		default:
			ok = value == "yes" || value == "no"
		}
		if !ok {
			return false
		}
	}
	return len(attrs) == 0
}

// document reads the root, and blanks and comments around it.
func (x *xmlReader) document() (*element, bool) {
	if !x.comments() {
		return nil, false
	}
	if !x.skip("<") {
		return nil, false
	}
	root, ok := x.element(1)
	return root, ok && x.comments() && x.in == ""
}

func (x *xmlReader) comments() bool {
	for x.blank(); x.skip("<!--"); x.blank() {
		if !x.comment() {
			return false
		}
	}
	return true
}

// comment reads what follows "<!--".
func (x *xmlReader) comment() bool {
	_, ok := x.until("--")
	return ok && x.skip(">")
}

// element reads one with all that is in it, after its "<".
func (x *xmlReader) element(depth int) (*element, bool) {
	if x.elements++; depth > maxDepth || x.elements > maxElements {
		return nil, false
	}
	prefix, name, ok := x.qualified()
	if !ok {
		return nil, false
	}
	attrs, ok := x.attributes()
	outer := len(x.scopes)
	if !ok || !x.declare(attrs) {
		return nil, false
	}
	space, ok := x.space(prefix)
	if !ok {
		return nil, false
	}
	e := &element{space: space, name: name}
	if !x.skip("/>") {
		if !x.skip(">") || !x.content(e, depth) {
			return nil, false
		}
		p, n, ok := x.qualified()
		if !ok || p != prefix || n != name {
			return nil, false
		}
		if x.blank(); !x.skip(">") {
			return nil, false
		}
	}
	x.scopes = x.scopes[:outer]
	return e, true
}

// content reads what is in an element, and "</".
func (x *xmlReader) content(e *element, depth int) bool {
	var text strings.Builder
	for {
		data, ok := x.until("<")
		if !ok || !appendText(&text, data) {
			return false
		}
		switch {
		case x.skip("/"):
			e.text = text.String()
			return true
		case x.skip("!--"):
			if !x.comment() {
				return false
			}
		case x.skip("![CDATA["):
			data, ok := x.until("]]>")
			if !ok {
				return false
			}
			text.WriteString(data)
		default:
			c, ok := x.element(depth + 1)
			if !ok {
				return false
			}
			e.children = append(e.children, c)
		}
	}
}

// attributes reads those of a tag, and the blanks before its end.
func (x *xmlReader) attributes() (attrs []attribute, ok bool) {
	for {
		blank := x.blank()
		if x.in == "" {
			return nil, false
		}
		if c := x.in[0]; c == '>' || c == '/' || c == '?' {
			return attrs, true
		}
		prefix, name, ok := x.qualified()
		if !ok || !blank || len(attrs) == maxAttributes {
			return nil, false
		}
		x.blank()
		if !x.skip("=") {
			return nil, false
		}
		x.blank()
		quote := `"`
		if !x.skip(quote) {
			if quote = "'"; !x.skip(quote) {
				return nil, false
			}
		}
		raw, ok := x.until(quote)
		var value strings.Builder
		if !ok || strings.Contains(raw, "<") || !appendValue(&value, raw) {
			return nil, false
		}
		attrs = append(attrs, attribute{prefix, name, value.String()})
	}
}

const (
	xmlnsSpace  = "http://www.w3.org/2000/xmlns/"
	xmlOwnSpace = "http://www.w3.org/XML/1998/namespace"
)

// declare enters the namespaces that attributes declare, and checks the attributes.
func (x *xmlReader) declare(attrs []attribute) bool {
	for _, a := range attrs {
		switch {
		case a.prefix == "xmlns":
			if a.value == "" || a.name == "xmlns" || (a.name == "xml") != (a.value == xmlOwnSpace) || a.value == xmlnsSpace {
				return false
			}
			x.scopes = append(x.scopes, scope{a.name, a.value})
		case a.prefix == "" && a.name == "xmlns":
			if a.value == xmlOwnSpace || a.value == xmlnsSpace {
				return false
			}
			x.scopes = append(x.scopes, scope{"", a.value})
		}
	}
	type expanded struct{ space, name string }
	seen := make(map[expanded]bool, len(attrs))
	for _, a := range attrs {
		space := ""
		switch a.prefix {
		case "":
		case "xmlns":
			space = xmlnsSpace
		default:
			var ok bool
			if space, ok = x.space(a.prefix); !ok {
				return false
			}
		}
		if seen[expanded{space, a.name}] {
			return false
		}
		seen[expanded{space, a.name}] = true
	}
	return true
}

// space returns the namespace of a prefix; the empty one need not be declared.
func (x *xmlReader) space(prefix string) (string, bool) {
	for _, in := range slices.Backward(x.scopes) {
		if in.prefix == prefix {
			return in.space, true
		}
	}
	if prefix == "xml" {
		return xmlOwnSpace, true
	}
	return "", prefix == ""
}

// qualified reads a name, perhaps with a prefix.
func (x *xmlReader) qualified() (prefix, name string, ok bool) {
	name, ok = x.name()
	if ok && x.skip(":") {
		prefix = name
		name, ok = x.name()
	}
	return prefix, name, ok
}

func (x *xmlReader) name() (string, bool) {
	n := 0
	for n < len(x.in) && isName(x.in[n], n == 0) {
		n++
	}
	name := x.in[:n]
	x.in = x.in[n:]
	return name, n > 0
}

func isName(c byte, first bool) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_':
		return true
	default:
		return !first && (c >= '0' && c <= '9' || c == '-' || c == '.')
	}
}

// appendText appends character data (XML 1.0, 2.4).
func appendText(b *strings.Builder, data string) bool {
	return !strings.Contains(data, "]]>") && appendReferences(b, data)
}

// appendValue appends an attribute's value (XML 1.0, 3.3.3).
func appendValue(b *strings.Builder, raw string) bool {
	return appendReferences(b, strings.NewReplacer("\t", " ", "\n", " ").Replace(raw))
}

// appendReferences appends text and what it refers to.
func appendReferences(b *strings.Builder, s string) bool {
	for {
		before, after, found := strings.Cut(s, "&")
		b.WriteString(before)
		if !found {
			return true
		}
		name, rest, found := strings.Cut(after, ";")
		if !found {
			return false
		}
		r, ok := reference(name)
		if !ok {
			return false
		}
		b.WriteRune(r)
		s = rest
	}
}

func reference(name string) (rune, bool) {
	switch name {
	case "lt":
		return '<', true
	case "gt":
		return '>', true
	case "amp":
		return '&', true
	case "apos":
		return '\'', true
	case "quot":
		return '"', true
	}
	digits, ok := strings.CutPrefix(name, "#")
	if !ok {
		return 0, false
	}
	base := 10
	if hex, ok := strings.CutPrefix(digits, "x"); ok {
		digits, base = hex, 16
	}
	n, err := strconv.ParseUint(digits, base, 32)
	if err != nil || n > utf8.MaxRune || !isCharacter(rune(n)) {
		return 0, false
	}
	return rune(n), true
}

// escape writes text as character data. What may not be in a document becomes U+FFFD.
func escape(b *strings.Builder, text string) {
	for _, r := range text {
		switch {
		case r == '<':
			b.WriteString("&lt;")
		case r == '>':
			b.WriteString("&gt;")
		case r == '&':
			b.WriteString("&amp;")
		case r == '"':
			b.WriteString("&quot;")
		case r == '\'':
			b.WriteString("&apos;")
		case r == '\r':
			b.WriteString("&#13;")
		case !isCharacter(r):
			b.WriteRune(utf8.RuneError)
		default:
			b.WriteRune(r)
		}
	}
}
