// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"slices"

	"github.com/goccy/go-yaml/token"
)

// maxNesting is how deep flow collections may stand in each other, and one
// more: {endpoints: [{ports: [...]}]} has four.
const maxNesting = 5

// screen refuses, before they are parsed, tokens that no state file has. The
// lexer takes time in proportion to the text. The parser takes the square of
// the nesting, of the number of keys in one mapping, and of the number of
// values left out, and a piece of its stack for each level of nesting: a
// hundred kilobytes of "[" keep it busy for half a minute, and some megabytes
// end the process.
func screen(tokens token.Tokens) *LineError {
	if tokens.InvalidToken() != nil {
		return nil // the parser begins with these, and says what is wrong
	}
	tokens = slices.DeleteFunc(slices.Clone(tokens), func(t *token.Token) bool { return isType(t, token.CommentType) })
	var open []bool // the flow collections around the token; true: a mapping
	colon := false  // seen in this entry of the innermost flow mapping
	end := &token.Token{}
	for i, t := range tokens {
		last, next := end, end
		if i > 0 {
			last = tokens[i-1]
		}
		if i+1 < len(tokens) {
			next = tokens[i+1]
		}
		line := t.Position.Line
		inMapping := len(open) > 0 && open[len(open)-1]
		switch {
		case isType(t, token.TagType, token.DirectiveType, token.MappingKeyType):
			return fault(line, "YAML", t.Value, "tags, directives and explicit keys are not supported")
		case isType(t, token.AnchorType) && i > 1 && isType(tokens[i-2], token.AnchorType):
			return fault(line, "YAML", t.Value, "two anchors at once")

		case isType(t, token.SequenceStartType, token.MappingStartType):
			if len(open) == maxNesting {
				return fault(line, "YAML", t.Value, "nested too deeply")
			}
			open, colon = append(open, isType(t, token.MappingStartType)), false
		case isType(t, token.SequenceEndType, token.MappingEndType, token.CollectEntryType):
			if inMapping && !colon && !isType(last, token.MappingStartType, token.CollectEntryType) {
				return fault(line, "key", last.Value, noValue)
			}
			colon = false
			if !isType(t, token.CollectEntryType) {
				open = open[:max(len(open)-1, 0)]
				colon = true // what has ended was the value of its entry
			}

		case isType(t, token.SequenceEntryType):
			if isType(next, token.SequenceEntryType) && next.Position.Line == line {
				return fault(line, "YAML", "- -", "a list in a list")
			}
			if next.Position == nil || next.Position.Column <= t.Position.Column {
				return fault(line, "item", t.Value, noValue)
			}
		case isType(t, token.MappingValueType): // the colon after a key
			if !slices.Contains(keys[:], last.Value) {
				return fault(line, "key", last.Value, "not known")
			}
			if empty(last, next, len(open) > 0) {
				switch {
				case last.Value == "ports": // an empty list is often written so, and is one
				case isSection(last.Value):
					return fault(line, "key", last.Value, noList)
				default:
					return fault(line, "key", last.Value, noValue)
				}
			}
			colon = true
		}
	}
	return nil
}

// empty reports whether no value stands between a key and the token after its
// colon.
func empty(key, next *token.Token, flow bool) bool {
	if next.Position == nil {
		return true
	}
	if flow {
		return isType(next, token.CollectEntryType, token.MappingEndType, token.SequenceEndType)
	}
	// A value stands to the right of its key, also on a line of its own, except
	// that a list need not (YAML 1.2 section 8.2.3).
	column := next.Position.Column
	return column < key.Position.Column || column == key.Position.Column && !isType(next, token.SequenceEntryType)
}

func isType(t *token.Token, of ...token.Type) bool { return slices.Contains(of, t.Type) }
