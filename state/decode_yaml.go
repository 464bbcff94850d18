// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/nftnat/nftnat/nat"
)

// The keys of a file.
const (
	keyVersion = "version"

	keyMappings  = "mappings"
	keyNetworks  = "networks"
	keyEndpoints = "endpoints"

	keyMapping = "mapping"
	keyName    = "name"
	keyProxy   = "proxy"
	keyExpires = "expires"

	keyPrefix     = "prefix"
	keyGateway    = "gateway"
	keyNext       = "next"
	keyMasquerade = "masquerade"
	keyGuard      = "guard"

	keyNetwork = "network"
	keyAddress = "address"
	keyPorts   = "ports"
)

// decodeYAML reads any file. It walks the nodes itself instead of filling a
// struct, so that each fault has its line.
func decodeYAML(text string) (nat.State, *LineError) {
	tokens := lexer.Tokenize(text)
	if err := screen(tokens); err != nil {
		return nat.State{}, err
	}
	doc, err := parser.Parse(tokens, 0)
	if err != nil {
		return nat.State{}, notYAML(text, err)
	}
	d := document{anchors: map[string]ast.Node{}, size: len(text)}
	if err := d.read(doc); err != nil {
		return nat.State{}, err
	}
	if f := validate(d.state); f != nil {
		err := f.err
		if f.first != nil {
			err = fmt.Errorf("%w (the first is in line %d)", err, d.lineOf(*f.first))
		}
		return nat.State{}, &LineError{Line: d.lineOf(f.at), Err: err}
	}
	return d.state, nil
}

// notYAML turns the library's error, several lines with the source drawn, into
// one line.
func notYAML(text string, err error) *LineError {
	line, reason := 1, ""
	var placed interface {
		GetToken() *token.Token
		GetMessage() string
	}
	if !errors.As(err, &placed) {
		reason = err.Error()
	} else {
		reason = placed.GetMessage()
		if t := placed.GetToken(); t != nil && t.Position != nil {
			line = t.Position.Line
		}
	}
	reason = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, reason)
	source := ""
	for range line {
		source, text, _ = strings.Cut(text, "\n")
	}
	return fault(line, "YAML", source, reason)
}

func fault(line int, what, input, reason string) *LineError {
	return &LineError{Line: line, Err: &nat.InvalidError{What: what, Input: input, Reason: reason}}
}

// document collects what one says.
type document struct {
	anchors map[string]ast.Node // by name; the values are neither anchors nor aliases
	state   nat.State
	lines   map[string][]int // of the items, by their section
	ports   [][]int          // lines of the endpoints' ports
	// size is that of the text in bytes, and texts how many texts of lists were read.
	size, texts int
}

func (d *document) read(f *ast.File) *LineError {
	var body ast.Node
	for _, doc := range f.Docs {
		switch {
		case doc.Body == nil:
		case body != nil:
			return fault(lineOf(doc.Body), "file", "---", "a second document")
		default:
			body = doc.Body
		}
	}
	if body == nil {
		return fault(1, "file", "", noLists)
	}
	top, err := d.resolve(body)
	if err != nil {
		return err
	}
	keys, ok := top.(ast.MapNode)
	if !ok {
		return fault(lineOf(body), "file", excerpt(top), `it does not begin with a key such as "mappings"`)
	}
	d.lines = map[string][]int{}
	lists := 0
	for it := keys.MapRange(); it.Next(); {
		lists++
		switch key := keyOf(it.Key()); key {
		case keyVersion:
			lists--
			err = d.checkVersion(it.Value())
		case keyMappings:
			err = d.readList(key, it.Value(), d.readMapping)
		case keyNetworks:
			err = d.readList(key, it.Value(), d.readNetwork)
		case keyEndpoints:
			err = d.readList(key, it.Value(), d.readEndpoint)
		default:
			err = fault(lineOf(it.Key()), "key", key, "a file has the keys version, networks, endpoints and mappings")
		}
		if err != nil {
			return err
		}
	}
	if lists == 0 {
		return fault(lineOf(body), "file", excerpt(top), noLists)
	}
	return nil
}

// noLists is why a file is refused that would unpublish everything without a word.
const noLists = `it lists no networks, endpoints or mappings; "mappings: []" says that there are none`

// checkVersion refuses a file of another version than this one.
func (d *document) checkVersion(n ast.Node) *LineError {
	line := lineOf(n)
	n, err := d.resolve(n)
	if err != nil {
		return err
	}
	if _, number := n.(*ast.IntegerNode); !number {
		return fault(line, keyVersion, excerpt(n), "it must be the number "+fileVersion)
	}
	if excerpt(n) != fileVersion {
		return fault(line, keyVersion, excerpt(n), "this program reads version "+fileVersion)
	}
	return nil
}

// fileVersion is the version of files that is read and written.
const fileVersion = "1"

// readList reads a section, item by item.
func (d *document) readList(section string, n ast.Node, read func(line int, item ast.Node) *LineError) *LineError {
	items, err := d.items(section, n)
	if err != nil {
		return err
	}
	if items == nil {
		return fault(lineOf(n), "key", section, noList)
	}
	for _, item := range items {
		line := lineOf(item)
		n, err := d.resolve(item)
		if err != nil {
			return err
		}
		if err := read(line, n); err != nil {
			return err
		}
		d.lines[section] = append(d.lines[section], line)
	}
	return nil
}

// noList is why a section without a value is refused: a file may have been cut there.
const noList = noValue + `; "[]" says that there are none`

// items are those of a list, nil where there is none.
func (d *document) items(what string, n ast.Node) ([]ast.Node, *LineError) {
	line := lineOf(n)
	n, err := d.resolve(n)
	if err != nil {
		return nil, err
	}
	switch n := n.(type) {
	case nil, *ast.NullNode:
		return nil, nil
	case *ast.SequenceNode:
		return append([]ast.Node{}, n.Values...), nil
	}
	return nil, fault(line, what, excerpt(n), "not a list")
}

// lineOf is the line in which something stands.
func (d *document) lineOf(p place) int {
	if p.port >= 0 {
		return d.ports[p.item][p.port]
	}
	return d.lines[p.section][p.item]
}

func (d *document) readMapping(line int, n ast.Node) *LineError {
	m, err := d.readItem(line, n)
	if err != nil {
		return err
	}
	if m.Frontend.Port() == 0 {
		return fault(line, keyMapping, m.String(), noFrontend)
	}
	if err := m.Validate(); err != nil {
		return &LineError{Line: line, Err: err}
	}
	d.state.Mappings = append(d.state.Mappings, m)
	return nil
}

func (d *document) readItem(line int, n ast.Node) (nat.Mapping, *LineError) {
	if object, ok := n.(ast.MapNode); ok {
		return d.readObject(line, object)
	}
	return readText(line, n)
}

func readText(line int, n ast.Node) (nat.Mapping, *LineError) {
	text, ok := stringOf(n)
	if !ok {
		reason := "neither a text like 8080->172.17.0.2:80 nor an object"
		if _, list := n.(*ast.SequenceNode); list {
			reason += "; a text that begins with a bracket is quoted"
		}
		return nat.Mapping{}, fault(line, keyMapping, excerpt(n), reason)
	}
	m, err := nat.ParseMapping(text)
	if err != nil {
		return m, &LineError{Line: line, Err: err}
	}
	return m, nil
}

func (d *document) readObject(line int, object ast.MapNode) (m nat.Mapping, err *LineError) {
	var rest nat.Mapping // what is said beside the mapping, which may come last
	given := false
	for it := object.MapRange(); it.Next(); {
		at := lineOf(it.Value())
		n, err := d.resolve(it.Value())
		if err != nil {
			return m, err
		}
		text, isString := stringOf(n)
		switch key := keyOf(it.Key()); key {
		case keyMapping:
			if m, err = readText(at, n); err != nil {
				return m, err
			}
			given = true
		case keyName:
			if !isString {
				return m, fault(at, key, excerpt(n), "not a text; quote it")
			}
			rest.Name = text
		case keyProxy:
			b, ok := n.(*ast.BoolNode)
			if !ok {
				return m, fault(at, key, excerpt(n), "true or false")
			}
			rest.NoProxy = !b.Value
		case keyExpires:
			t, ok := parseExpires(text)
			if !isString || !ok {
				return m, fault(at, key, excerpt(n), "not a time like 2027-01-01T00:00:00Z")
			}
			rest.Expires = t
		default:
			return m, fault(lineOf(it.Key()), "key", key, "a mapping has the keys mapping, name, proxy and expires")
		}
	}
	if !given {
		return m, fault(line, keyMapping, "", `the object has no key "mapping"`)
	}
	m.Name, m.NoProxy, m.Expires = rest.Name, rest.NoProxy, rest.Expires
	return m, nil
}

// resolve returns the node that n stands for, and remembers the anchors on the
// way. As an anchor must precede its aliases, none can lead in a circle.
func (d *document) resolve(n ast.Node) (ast.Node, *LineError) {
	switch n := n.(type) {
	case *ast.AnchorNode:
		to, err := d.resolve(n.Value)
		if err == nil {
			d.anchors[excerpt(n.Name)] = to
		}
		return to, err
	case *ast.AliasNode:
		name := excerpt(n.Value)
		to, ok := d.anchors[name]
		if !ok {
			return nil, fault(lineOf(n), "alias", name, "no anchor of that name before it")
		}
		return to, nil
	}
	return n, nil
}

// keyOf returns the text of a key, also of one that is not a plain one.
func keyOf(n ast.MapKeyNode) string {
	if s, ok := n.(*ast.StringNode); ok {
		return s.Value
	}
	return excerpt(n)
}

func stringOf(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	}
	return "", false
}

// excerpt is what an error repeats of a node: its first token, which for a
// block mapping the library takes to be the colon.
func excerpt(n ast.Node) string {
	if n == nil || n.GetToken() == nil {
		return ""
	}
	t := n.GetToken()
	if isType(t, token.MappingValueType) && t.Prev != nil {
		return t.Prev.Value + ":"
	}
	return t.Value
}

func lineOf(n ast.Node) int {
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return 1
	}
	return n.GetToken().Position.Line
}
