// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/nftnat/nftnat/nat"
)

// decodeLines reads YAML of the form that Encode writes, with an item a line: for that the YAML
// library takes a hundred times a file's size in memory. ok is false for a file that has
// another form, or a fault: then the library reads it, and says what is wrong.
func decodeLines(file string) (s nat.State, ok bool) {
	d := document{size: len(file)}
	if !d.lines(file) {
		return nat.State{}, false
	}
	return d.state, true
}

// lines reads a whole file.
func (d *document) lines(file string) bool {
	r := lineReader{document: d}
	for line := range strings.Lines(file) {
		r.line++
		if !r.read(strings.TrimSuffix(line, "\n")) {
			return false
		}
		if r.section == "mappings" && d.mappings == nil && d.pass == nil {
			n := strings.Count(file, "\n") // at most, an item a line
			d.state.Mappings, d.mappings = make([]nat.Mapping, 0, n), make([]int, 0, n)
		}
	}
	return r.leave() && d.end(1, "") == nil
}

// lineReader reads lines. Its methods return false for what it cannot read.
type lineReader struct {
	*document
	line    int
	begun   bool // there was something else than comments
	ended   bool // by endMark
	seen    []string
	section string // the list that is read; empty: none is
	items   int    // of it, so far
	indent  string // of its items
	fields  []field
	list    []value
}

func (r *lineReader) read(line string) bool {
	text := strings.TrimLeft(line, " ")
	switch {
	case text == "":
		return true
	case text[0] == '#':
		return !strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) || c == unicode.ReplacementChar })
	case r.ended:
		return false
	case line == "---" && !r.begun:
		r.begun = true
		return true
	}
	r.begun = true
	if item, found := strings.CutPrefix(text, "- "); found {
		return r.item(item, line[:len(line)-len(text)])
	}
	if !r.leave() {
		return false
	}
	key, rest, found := strings.Cut(line, ":")
	switch {
	case line == endMark:
		r.ended = true
		return true
	case !found || slices.Contains(r.seen, key):
		return false
	case line == "version: "+fileVersion:
	case isSection(key) && rest == "":
		r.section, r.items = key, 0
		r.lists++
	case isSection(key) && rest == " []":
		r.lists++
	default:
		return false
	}
	r.seen = append(r.seen, key)
	return true
}

// leave ends the list that is read. It must not be empty.
func (r *lineReader) leave() bool {
	filled := r.section == "" || r.items != 0
	r.section = ""
	return filled
}

func (r *lineReader) item(text, indent string) bool {
	if r.section == "" || r.items != 0 && indent != r.indent {
		return false
	}
	r.items, r.indent = r.items+1, indent
	v := value{line: r.line}
	r.fields, r.list = r.fields[:0], r.list[:0]
	var rest string
	var ok bool
	if strings.HasPrefix(text, "{") {
		rest, ok = r.object(&v, text)
	} else {
		rest, ok = r.scalar(&v, text, "")
	}
	return ok && rest == "" && r.document.item(r.section, &v) == nil
}

// object reads an object, and returns what follows it.
func (r *lineReader) object(v *value, text string) (rest string, ok bool) {
	v.kind = object
	rest = text[1:]
	for {
		key, after, found := strings.Cut(rest, ": ")
		if !found || !slices.Contains(keys[:], key) || slices.ContainsFunc(r.fields, func(f field) bool { return f.key == key }) {
			return "", false
		}
		f := field{key: key, line: r.line, value: value{line: r.line}}
		if strings.HasPrefix(after, "[") {
			rest, ok = r.texts(&f.value, after)
		} else {
			rest, ok = r.scalar(&f.value, after, ",}")
		}
		r.fields = append(r.fields, f)
		switch {
		case !ok:
			return "", false
		case strings.HasPrefix(rest, "}"):
			v.fields = r.fields
			return rest[1:], true
		case !strings.HasPrefix(rest, ", "):
			return "", false
		}
		rest = rest[2:]
	}
}

// texts reads a list of scalars, and returns what follows it.
func (r *lineReader) texts(v *value, text string) (rest string, ok bool) {
	v.kind = list
	start := len(r.list)
	for rest = text[1:]; ; rest = rest[2:] {
		one := value{line: r.line}
		if rest, ok = r.scalar(&one, rest, ",]"); !ok {
			return "", false
		}
		r.list = append(r.list, one)
		if strings.HasPrefix(rest, "]") {
			v.list = r.list[start:]
			return rest[1:], true
		}
		if !strings.HasPrefix(rest, ", ") {
			return "", false
		}
	}
}

// scalar reads a scalar up to one of the ends, or up to the end of the line, and returns what
// follows it.
func (r *lineReader) scalar(v *value, line, ends string) (rest string, ok bool) {
	v.kind = text
	if quoted, found := strings.CutPrefix(line, `"`); found {
		v.text, rest, ok = strings.Cut(quoted, `"`)
		return rest, ok && !strings.ContainsFunc(v.text, func(c rune) bool { return c < ' ' || c > '~' || c == '\\' })
	}
	v.text = line
	if i := strings.IndexAny(line, ends); i >= 0 {
		v.text, rest = line[:i], line[i:]
	}
	if v.text == "true" || v.text == "false" {
		v.kind, v.yes = boolean, v.text == "true"
		return rest, true
	}
	return rest, isPlain(v.text, ends == "")
}

// isPlain reports whether a scalar without quotes is the text of a mapping, a name, an IPv4
// address or prefix, or a time: what YAML reads as just that text.
func isPlain(text string, block bool) bool {
	if isWord(text) {
		return true
	}
	if text == "" || text[0] < '0' || text[0] > '9' || text[len(text)-1] == ':' {
		return false
	}
	for i := range len(text) {
		switch c := text[i]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c == '.', c == ':', c == '-', c == '/':
		case c == 'T' || c == 'Z' || c == '+' || c == '>':
		case block && (c == '[' || c == ']'):
		default:
			return false
		}
	}
	if strings.Contains(text, "->") {
		return true
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return a.Is4()
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Addr().Is4()
	}
	_, ok := parseExpires(text)
	return ok
}
