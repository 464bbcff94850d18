// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nftnat/nftnat/nat"
)

// decodePlain reads the files that Encode writes, and those that people write
// in the same manner, without a YAML library: of 60,000 mappings that library
// makes 80 to 400 MB of tokens and nodes. It takes only lines whose meaning in
// YAML 1.2 cannot be in doubt, and only files without a fault; for any other
// it reports false, and the library has the word on what they mean or where
// they are wrong.
//
// Why these lines mean in YAML what they are taken for here:
//   - Blank lines and comment lines between items have no meaning (section
//     6.6), as no scalar is open across lines: every line is either complete
//     or not taken, so a continuation of the line before is not taken either.
//   - "mappings:" at column 0 with nothing behind is a key whose value follows;
//     lines that begin with the same number of spaces and "- " are items of
//     one block sequence (section 8.2.1), which may be at column 0 (8.2.3).
//   - A plain scalar that begins with a digit ends before ": ", before " #",
//     and before a colon at the end of the line, and nowhere else in block
//     context (section 7.3.3). Mapping texts have no spaces; those that end
//     with a colon are not taken. As they hold "->", the core schema resolves
//     none of them to a number (section 10.3.2).
//   - A quoted scalar without quotes, backslashes and line breaks inside is
//     what stands between the quotes (sections 7.3.1, 7.3.2).
//   - An object is taken in exactly the spelling of Encode.
//   - "version: 1" is taken before all sections, and "..." as the last line (section
//     9.1.2).
//   - The other sections are taken in the order in which Encode writes them, each with
//     an item at least.
func decodePlain(text string) (s nat.State, ok bool) {
	section, indent, items, ended := -1, -1, 0, false
	versioned := false
	for text != "" {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		line = strings.TrimRight(line, " ")
		body := strings.TrimLeft(line, " ")
		switch {
		case body == "":
		case body[0] == '#':
			if !printable(body) {
				return nat.State{}, false
			}
		case line == endMark && items > 0:
			if saysSomething(text) {
				return nat.State{}, false
			}
			ended = true
		case ended:
			return nat.State{}, false
		case line == versionLine && section < 0 && !versioned:
			versioned = true
		case line == noMappings:
			// Without others it is not worth a way of its own, and a section before it
			// has an item.
			if items == 0 || plainSections[section] == keyMappings {
				return nat.State{}, false
			}
			ended = true
		case line[0] != ' ' && line[0] != '-':
			next := slices.Index(plainSections[:], strings.TrimSuffix(line, ":"))
			if next <= section || line[len(line)-1] != ':' || section >= 0 && items == 0 {
				return nat.State{}, false
			}
			section, indent, items = next, -1, 0
			if plainSections[section] == keyMappings {
				s.Mappings = make([]nat.Mapping, 0, itemsAtMost(text))
			}
		default:
			if indent < 0 {
				indent = len(line) - len(body)
			}
			item, isItem := strings.CutPrefix(body, "- ")
			if !isItem || section < 0 || len(line)-len(body) != indent || !plainSectionItem(&s, section, strings.TrimLeft(item, " ")) {
				return nat.State{}, false
			}
			items++
		}
	}
	if items == 0 || validate(s) != nil {
		return nat.State{}, false
	}
	return s, true
}

// plainSections are the sections in their order.
var plainSections = [...]string{keyNetworks, keyEndpoints, keyMappings}

// plainSectionItem reads what follows "- " in a section.
func plainSectionItem(s *nat.State, section int, item string) bool {
	switch plainSections[section] {
	case keyNetworks:
		n, ok := plainNetwork(item)
		s.Networks = append(s.Networks, n)
		return ok
	case keyEndpoints:
		a, ok := plainEndpoint(item)
		s.Endpoints = append(s.Endpoints, a)
		return ok
	}
	m, ok := plainItem(item)
	s.Mappings = append(s.Mappings, m)
	return ok && m.Frontend.Port() != 0
}

// itemsAtMost is how many items the text can hold: one a line, and none
// shorter than the shortest.
func itemsAtMost(text string) int {
	return min(strings.Count(text, "\n")+1, len(text)/len("- 1->::2")+1)
}

// plainItem reads what follows "- ".
func plainItem(s string) (nat.Mapping, bool) {
	switch c := s[0]; {
	case c == '{':
		return plainObject(s)
	case c == '"' || c == '\'':
		end := len(s) - 1
		if end == 0 || s[end] != c {
			return nat.Mapping{}, false
		}
		s = s[1:end]
	case c < '0' || c > '9' || s[len(s)-1] == ':':
		return nat.Mapping{}, false
	}
	return plainMapping(s)
}

// plainMapping reads a mapping text if all its characters are such as mapping
// texts have.
func plainMapping(s string) (nat.Mapping, bool) {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '-' && c <= ':': // - . / and digits, :
		case c >= 'a' && c <= 'f', c >= 'A' && c <= 'F':
		case c == '>', c == '[', c == ']', c == 'u', c == 'p', c == 't':
		default:
			return nat.Mapping{}, false
		}
	}
	m, err := nat.ParseMapping(s)
	return m, err == nil
}

// plainObject reads what appendObject writes.
func plainObject(s string) (m nat.Mapping, ok bool) {
	if s, ok = strings.CutSuffix(s, "}"); !ok {
		return m, false
	}
	if s, ok = strings.CutPrefix(s, objectStart); !ok {
		return m, false
	}
	text, s, ok := strings.Cut(s, `"`)
	if !ok {
		return m, false
	}
	if m, ok = plainMapping(text); !ok {
		return m, false
	}
	if rest, found := strings.CutPrefix(s, objectName); found {
		if m.Name, s, ok = plainName(rest); !ok {
			return m, false
		}
	}
	if rest, found := strings.CutPrefix(s, objectNoProxy); found {
		m.NoProxy, s = true, rest
	}
	if rest, found := strings.CutPrefix(s, objectExpires); found {
		// The rest must be a time, which has no character that means
		// anything to YAML but colons, and none of them before a space.
		if m.Expires, ok = parseExpires(rest); !ok {
			return m, false
		}
		s = ""
	}
	return m, s == ""
}

// plainName cuts a name off the front of s: a bare word, or in double quotes
// without escapes.
func plainName(s string) (name, rest string, ok bool) {
	if quoted, found := strings.CutPrefix(s, `"`); found {
		name, rest, ok = strings.Cut(quoted, `"`)
		return name, rest, ok && printable(name) && !strings.Contains(name, `\`)
	}
	end := strings.IndexAny(s, ",}")
	if end < 0 {
		end = len(s)
	}
	return s[:end], s[end:], isWord(s[:end])
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

// printable reports whether s can stand literally in YAML: all of Unicode's
// printable characters can (section 5.1), the reverse does not hold.
func printable(s string) bool {
	for i, r := range s {
		if !unicode.IsPrint(r) || r == utf8.RuneError && !strings.HasPrefix(s[i:], "\ufffd") {
			return false
		}
	}
	return true
}

// parseExpires reads a time of RFC 3339. The zero time is refused, as it would
// mean never.
func parseExpires(s string) (time.Time, bool) {
	var t time.Time
	// Unlike time.Parse, UnmarshalText takes nothing but RFC 3339.
	if err := t.UnmarshalText([]byte(s)); err != nil || t.IsZero() {
		return time.Time{}, false
	}
	return t.UTC(), true
}
