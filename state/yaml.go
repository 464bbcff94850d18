// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"slices"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/nftnat/nftnat/nat"
)

// decodeYAML reads any YAML file. It walks the nodes instead of filling a struct, so
// that each fault has its line.
func decodeYAML(file string) (nat.State, *LineError) {
	tokens := lexer.Tokenize(file)
	if err := screen(tokens); err != nil {
		return nat.State{}, err
	}
	parsed, err := parser.Parse(tokens, 0)
	if err != nil {
		return nat.State{}, notYAML(file, err)
	}
	docs := slices.DeleteFunc(parsed.Docs, func(d *ast.DocumentNode) bool { return d.Body == nil })
	switch len(docs) {
	case 0:
		return nat.State{}, fault(1, "file", "", noLists)
	case 1:
	default:
		return nat.State{}, fault(lineOf(docs[1].Body), "file", "---", "a second document")
	}
	top, bad := anchors{}.value(docs[0].Body)
	if bad == nil && top.kind != object {
		bad = fault(top.line, "file", top.text, `it does not begin with a key such as "mappings"`)
	}
	d := document{size: len(file)}
	for i := 0; bad == nil && i < len(top.fields); i++ {
		bad = d.field(&top.fields[i])
	}
	if bad == nil {
		bad = d.end(top.line, top.text)
	}
	if bad != nil {
		return nat.State{}, bad
	}
	return d.state, nil
}

// notYAML makes one line of the library's error, which has several with the source drawn.
func notYAML(file string, err error) *LineError {
	line, reason := 1, err.Error()
	var placed interface {
		GetToken() *token.Token
		GetMessage() string
	}
	if errors.As(err, &placed) {
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
		source, file, _ = strings.Cut(file, "\n")
	}
	return fault(line, "YAML", source, reason)
}

// anchors are the values of a document that have a name.
type anchors map[string]value

// value returns the value of a node. An anchor must precede its aliases, so none can lead
// in a circle.
func (a anchors) value(n ast.Node) (value, *LineError) {
	v := value{line: lineOf(n), text: excerpt(n)}
	var err *LineError
	switch n := n.(type) {
	case *ast.AnchorNode:
		to, err := a.value(n.Value)
		if err != nil {
			return v, err
		}
		a[excerpt(n.Name)] = to
		to.line = v.line
		return to, nil
	case *ast.AliasNode:
		name := excerpt(n.Value)
		to, ok := a[name]
		if !ok {
			return v, fault(v.line, "alias", name, "no anchor of that name before it")
		}
		to.line = v.line
		return to, nil
	case nil, *ast.NullNode:
		v.kind = null
	case *ast.StringNode:
		v.kind, v.text = text, n.Value
	case *ast.LiteralNode:
		v.kind, v.text = text, n.Value.Value
	case *ast.BoolNode:
		v.kind, v.yes = boolean, n.Value
	case *ast.IntegerNode:
		v.kind = integer
	case *ast.SequenceNode:
		v.kind, v.list = list, make([]value, len(n.Values))
		for i, item := range n.Values {
			if v.list[i], err = a.value(item); err != nil {
				return v, err
			}
		}
	case ast.MapNode:
		v.kind = object
		for it := n.MapRange(); it.Next(); {
			f := field{key: keyOf(it.Key()), line: lineOf(it.Key())}
			if f.value, err = a.value(it.Value()); err != nil {
				return v, err
			}
			v.fields = append(v.fields, f)
		}
	}
	return v, nil
}

// keyOf returns the text of a key, also of one that is not a plain one.
func keyOf(n ast.MapKeyNode) string {
	if s, ok := n.(*ast.StringNode); ok {
		return s.Value
	}
	return excerpt(n)
}

// excerpt is what an error quotes of a node: its first token, which for a
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
