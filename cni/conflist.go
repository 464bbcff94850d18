// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// typePortmap is the plugin that this one takes the place of. Its entry gets keyReplaces, by which
// Uninstall knows that it was there.
const (
	typePortmap = "portmap"
	keyReplaces = "replaces"
)

// Key is a key of this plugin's entry, and its value as JSON has it.
type Key struct{ Name, Value string }

// ownKeys are the keys that only this plugin knows.
func ownKeys() []string {
	return []string{keyReplaces, "socket", "table", "startDaemon", "onConflict", "hold"}
}

// Install returns a list of plugins (conflist) in which this plugin has the place of portmap, or the
// last one, with some keys. The rest of the text stays as it is. The error is nat.ErrInvalid.
func Install(text []byte, keys ...Key) ([]byte, error) {
	l, err := parseList(text)
	if err != nil {
		return nil, err
	}
	theirs, ours := l.find(typePortmap), l.find(Type)
	var edits []edit
	switch {
	case len(theirs)+len(ours) > 1:
		return nil, refused("it has more than one entry of type %s or %s", typePortmap, Type)
	case len(ours) == 1:
		edits = l.set(ours[0], keys)
	case len(theirs) == 1:
		edits = l.set(theirs[0], append([]Key{{"type", quoted(Type)}, {keyReplaces, quoted(typePortmap)}}, keys...))
	default:
		edits = []edit{l.add(keys)}
	}
	after := l.edited(edits)
	return after, check(after)
}

// check refuses a list whose entry this plugin could not serve.
func check(text []byte) error {
	l, err := parseList(text)
	if err != nil {
		return err
	}
	for _, i := range l.find(Type) {
		var c config
		err := json.Unmarshal(text[l.places[i].start:l.places[i].end], &c)
		if err == nil {
			err = c.check()
		}
		switch {
		case err != nil:
			return refused("the entry: %v", err)
		case !c.Capabilities["portMappings"]:
			return refused(`the entry has no "capabilities": {"portMappings": true}, so that runtimes send no ports`)
		}
	}
	return nil
}

// Uninstall returns a list of plugins without this one, and with portmap where Install found it.
func Uninstall(text []byte) ([]byte, error) {
	l, err := parseList(text)
	if err != nil {
		return nil, err
	}
	var edits []edit
	for _, i := range l.find(Type) {
		if l.value(i, keyReplaces) == typePortmap {
			edits = append(edits, l.restore(i)...)
		} else {
			edits = append(edits, l.remove(i))
		}
	}
	return l.edited(edits), nil
}

// refusedError says why a list cannot be edited.
type refusedError string

func (e refusedError) Error() string { return string(e) }

func (e refusedError) Unwrap() error { return nat.ErrInvalid }

func refused(format string, args ...any) error { return refusedError(fmt.Sprintf(format, args...)) }

func quoted(text string) string { return `"` + text + `"` }

// span is a part of a text.
type span struct{ start, end int }

// member is a key of an object, where it begins, and its value.
type member struct {
	key   string
	start int
	value span
}

// edit puts a text in the place of a part of another.
type edit struct {
	span
	text string
}

// list is a list of plugins and its entries.
type list struct {
	text    []byte
	places  []span
	entries [][]member
}

func parseList(text []byte) (*list, error) {
	if !json.Valid(text) {
		return nil, refused("it is not JSON")
	}
	s := scanner{text: text}
	if s.space(); text[s.at] != '{' {
		return nil, refused("it is not an object")
	}
	plugins := span{}
	for _, m := range s.object() {
		if strings.EqualFold(m.key, "plugins") {
			plugins = m.value
		}
	}
	if plugins.end == 0 || text[plugins.start] != '[' {
		return nil, refused(`it has no "plugins"`)
	}
	l := &list{text: text}
	s.at = plugins.start
	l.places = s.array()
	for _, place := range l.places {
		if text[place.start] != '{' {
			return nil, refused(`one of its "plugins" is not an object`)
		}
		s.at = place.start
		l.entries = append(l.entries, s.object())
	}
	if len(l.places) == 0 {
		return nil, refused(`its "plugins" are none: this one needs another before it`)
	}
	return l, nil
}

// find returns the entries of a type.
func (l *list) find(name string) (found []int) {
	for i := range l.entries {
		if l.value(i, "type") == name {
			found = append(found, i)
		}
	}
	return found
}

// value returns the text that a key of an entry has; empty: it has none.
func (l *list) value(entry int, key string) (text string) {
	if m := l.member(entry, key); m != nil {
		_ = json.Unmarshal(l.text[m.value.start:m.value.end], &text) // or it is no text
	}
	return text
}

// member returns a key of an entry; nil: the entry does not have it.
func (l *list) member(entry int, key string) *member {
	for i := range slices.Backward(l.entries[entry]) { // the last one counts
		if m := &l.entries[entry][i]; strings.EqualFold(m.key, key) {
			return m
		}
	}
	return nil
}

// set gives keys of an entry values. New ones come after its type.
func (l *list) set(entry int, keys []Key) []edit {
	var edits []edit
	var added []byte
	for _, k := range keys {
		if m := l.member(entry, k.Name); m != nil {
			edits = append(edits, edit{m.value, k.Value})
		} else {
			added = appendKey(added, k)
		}
	}
	end := l.member(entry, "type").value.end
	return append(edits, edit{span{end, end}, string(added)})
}

// add adds an entry behind the last one, on a line of its own if that has one.
func (l *list) add(keys []Key) edit {
	last := l.places[len(l.places)-1]
	before := len(bytes.TrimRight(l.text[:last.start], " \t\r\n"))
	entry := []byte("," + string(l.text[before:last.start]) + `{"type": "` + Type + `", "capabilities": {"portMappings": true}`)
	for _, k := range keys {
		entry = appendKey(entry, k)
	}
	return edit{span{last.end, last.end}, string(entry) + "}"}
}

func appendKey(text []byte, k Key) []byte {
	return append(text, ", "+quoted(k.Name)+": "+k.Value...)
}

// remove removes an entry.
func (l *list) remove(entry int) edit {
	place := l.places[entry]
	switch {
	case entry != 0:
		place.start = l.places[entry-1].end
	case len(l.places) > 1:
		place.end = l.places[1].start
	}
	return edit{place, ""}
}

// restore makes an entry that of portmap again.
func (l *list) restore(entry int) []edit {
	ms := l.entries[entry]
	own := func(m member) bool {
		return slices.ContainsFunc(ownKeys(), func(key string) bool { return strings.EqualFold(m.key, key) })
	}
	first := slices.IndexFunc(ms, func(m member) bool { return !own(m) }) // there is a type
	edits := []edit{
		{l.member(entry, "type").value, quoted(typePortmap)},
		{span{ms[0].start, ms[first].start}, ""},
	}
	for i, m := range ms[first+1:] {
		if own(m) {
			edits = append(edits, edit{span{ms[first+i].value.end, m.value.end}, ""})
		}
	}
	return edits
}

// edited returns the text with edits, which do not overlap.
func (l *list) edited(edits []edit) []byte {
	for i := range edits {
		for ; i > 0 && edits[i].start < edits[i-1].start; i-- {
			edits[i], edits[i-1] = edits[i-1], edits[i]
		}
	}
	var text []byte
	at := 0
	for _, e := range edits {
		text = append(append(text, l.text[at:e.start]...), e.text...)
		at = e.end
	}
	return append(text, l.text[at:]...)
}

// scanner finds the parts of a JSON text that is known to be valid.
type scanner struct {
	text []byte
	at   int
}

// space skips white space.
func (s *scanner) space() {
	for s.at < len(s.text) && strings.IndexByte(" \t\r\n", s.text[s.at]) >= 0 {
		s.at++
	}
}

// string skips a string.
func (s *scanner) string() {
	for s.at++; s.text[s.at] != '"'; s.at++ {
		if s.text[s.at] == '\\' {
			s.at++
		}
	}
	s.at++
}

// value skips a value, and returns where it stands.
func (s *scanner) value() span {
	s.space()
	start := s.at
	switch s.text[s.at] {
	case '{':
		s.object()
	case '[':
		s.array()
	case '"':
		s.string()
	default:
		for s.at < len(s.text) && strings.IndexByte(",]} \t\r\n", s.text[s.at]) < 0 {
			s.at++
		}
	}
	return span{start, s.at}
}

// array skips an array, and returns its values.
func (s *scanner) array() (values []span) {
	s.at++
	for s.next(']') {
		values = append(values, s.value())
	}
	return values
}

// object skips an object, and returns its keys.
func (s *scanner) object() (members []member) {
	s.at++
	for s.next('}') {
		m := member{start: s.at}
		s.string()
		_ = json.Unmarshal(s.text[m.start:s.at], &m.key) // it is valid
		s.space()
		s.at++ // the colon
		m.value = s.value()
		members = append(members, m)
	}
	return members
}

// next goes to the next element of an array or object, or behind its end.
func (s *scanner) next(end byte) bool {
	s.space()
	if s.text[s.at] == ',' {
		s.at++
		s.space()
	}
	if s.text[s.at] == end {
		s.at++
		return false
	}
	return true
}
