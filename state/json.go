// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/nftnat/nftnat/nat"
)

// decodeJSON reads a file that is a JSON document (RFC 8259), an item at a time.
// encoding/json takes three times as long for it, and needs more checks than it saves:
// of a key that is given twice it takes the last, and it ignores the case of keys. ok is
// false if the file has no checksum and is no JSON, and so may be YAML.
func decodeJSON(file string) (stored nat.StoredState, ok bool, err *LineError) {
	s, d, gone := scanner{text: file, line: 1}, document{size: len(file)}, document{size: len(file)}
	if !utf8.ValidString(file) {
		return stored, false, s.bad("it is not UTF-8")
	}
	items := min(strings.Count(file, "\n"), len(file)/len(`"1->::2",`)) // at most, an item a line
	summed, table := false, ""
	var fields []field
	err = s.object(&fields, func(f *field) *LineError {
		if isSection(f.key) && s.next() == '[' {
			d.lists++
			return s.each('[', ']', func() *LineError {
				item, err := s.item()
				if err != nil {
					return err
				}
				if f.key == "mappings" && d.state.Mappings == nil {
					d.state.Mappings, d.mappings = make([]nat.Mapping, 0, items), make([]int, 0, items)
				}
				return d.item(f.key, &item)
			})
		}
		if f.key == "removed" && s.next() == '{' {
			return s.removed(&gone)
		}
		if err := s.value(&f.value); err != nil {
			return err
		}
		isText := f.value.kind == text
		switch {
		case f.key == "checksum" && isText:
			summed = true
			return checkSum(f.line, f.value.text, file[s.at:])
		case f.key == "table" && isText:
			table = f.value.text
			return nil
		}
		return d.field(f)
	})
	if err == nil && s.next() != 0 {
		err = s.bad("there is more after the object")
	}
	if err == nil {
		err = d.end(1, "{")
	}
	if err != nil {
		return stored, summed || !s.isBad, err
	}
	stored.Removed = gone.state
	if stored.State = d.state; summed { // without a checksum the table may be another's
		stored.Table = table
	}
	return stored, true, nil
}

// removed reads what was removed. Of each item it must be possible that it was published.
func (s *scanner) removed(gone *document) *LineError {
	var fields []field
	err := s.object(&fields, func(f *field) *LineError {
		if !isSection(f.key) {
			return fault(f.line, "key", f.key, "what was removed has the keys networks, endpoints and mappings")
		}
		if s.next() != '[' {
			return fault(f.line, f.key, "", "not a list")
		}
		return s.each('[', ']', func() *LineError {
			item, err := s.item()
			if err != nil {
				return err
			}
			return gone.item(f.key, &item)
		})
	})
	if err != nil {
		return err
	}
	return gone.validateRemoved()
}

// scanner reads JSON. What it returns is valid until the next item.
type scanner struct {
	text     string
	at, line int
	isBad    bool // it is no JSON
	fields   []field
	list     []value
}

func (s *scanner) bad(reason string) *LineError {
	s.isBad = true
	source, _, _ := strings.Cut(s.text[s.at:], "\n")
	return fault(s.line, "JSON", source[:min(len(source), 40)], reason)
}

// next skips white space and returns the byte that follows, or 0 at the end.
func (s *scanner) next() byte {
	for ; s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; c {
		case '\n':
			s.line++
		case ' ', '\t', '\r':
		case 0: // which no JSON has
			return ' '
		default:
			return c
		}
	}
	return 0
}

// skip skips c if it is next.
func (s *scanner) skip(c byte) bool {
	if s.next() != c {
		return false
	}
	s.at++
	return true
}

// each calls read at each of the values between two brackets.
func (s *scanner) each(begin, end byte, read func() *LineError) *LineError {
	if !s.skip(begin) {
		return s.bad(fmt.Sprintf("not a %q", begin))
	}
	for again := !s.skip(end); again; {
		if err := read(); err != nil {
			return err
		}
		if again = !s.skip(end); again && !s.skip(',') {
			return s.bad(fmt.Sprintf("not a comma or a %q", end))
		}
	}
	return nil
}

// object appends the fields of an object to fields, and calls read at the value of each.
func (s *scanner) object(fields *[]field, read func(*field) *LineError) *LineError {
	return s.each('{', '}', func() *LineError {
		before := *fields
		*fields = append(*fields, field{})
		f := &(*fields)[len(before)]
		s.next()
		f.line = s.line
		var ok bool
		if f.key, ok = s.string(); !ok || !s.skip(':') {
			return s.bad("not a key and a colon")
		}
		if len(before) > len(keys) || slices.ContainsFunc(before, func(b field) bool { return b.key == f.key }) {
			return fault(f.line, "key", f.key, "it is given twice")
		}
		return read(f)
	})
}

// item reads an item of a section: an object or what value reads.
func (s *scanner) item() (v value, err *LineError) {
	s.fields, s.list = s.fields[:0], s.list[:0]
	if s.next() != '{' {
		return v, s.value(&v)
	}
	v.line, v.kind, v.text = s.line, object, "{"
	err = s.object(&s.fields, func(f *field) *LineError { return s.value(&f.value) })
	v.fields = s.fields
	return v, err
}

// value reads a scalar or a list of scalars.
func (s *scanner) value(v *value) *LineError {
	if s.next() != '[' {
		return s.scalar(v)
	}
	v.line, v.kind, v.text = s.line, list, "["
	start := len(s.list)
	err := s.each('[', ']', func() *LineError {
		s.list = append(s.list, value{})
		return s.scalar(&s.list[len(s.list)-1])
	})
	v.list = s.list[start:]
	return err
}

func (s *scanner) scalar(v *value) *LineError {
	c := s.next()
	v.line = s.line
	if c == '"' {
		var ok bool
		if v.text, ok = s.string(); !ok {
			return s.bad("not a string")
		}
		v.kind = text
		return nil
	}
	start := s.at
	for s.at < len(s.text) && strings.IndexByte(",:]} \t\r\n", s.text[s.at]) < 0 {
		s.at++
	}
	switch v.text = s.text[start:s.at]; {
	case v.text == "null":
		v.kind = null
	case v.text == "true", v.text == "false":
		v.kind, v.yes = boolean, v.text == "true"
	case !json.Valid([]byte(v.text)):
		return s.bad("not a value")
	case strings.Trim(v.text, "0123456789") == "":
		v.kind = integer
	}
	return nil
}

// string reads a string.
func (s *scanner) string() (text string, ok bool) {
	if !s.skip('"') {
		return "", false
	}
	start, escaped := s.at, false
	for ; s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; {
		case c == '"':
			s.at++
			if escaped {
				return unescape(s.text[start-1 : s.at])
			}
			return s.text[start : s.at-1], true
		case c == '\\':
			escaped = true
			s.at++
		case c < ' ':
			return "", false
		}
	}
	return "", false
}

func unescape(quoted string) (text string, ok bool) {
	err := json.Unmarshal([]byte(quoted), &text)
	return text, err == nil
}
