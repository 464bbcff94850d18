// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// CommentAttributes are the attributes in the comment of an element, after the name.
type CommentAttributes struct {
	// NoProxy is Mapping.NoProxy.
	NoProxy bool
	// ProxyOnly is Mapping.ProxyOnly where the map does not show it: it has only mappings that
	// proxies alone serve anyway.
	ProxyOnly bool
	// Shared is whether Mapping.Hold is HoldShared.
	Shared bool
	// OneFamily distinguishes 0.0.0.0 and :: from any address. They have the same key in
	// the maps, but a proxy must not serve the other family.
	OneFamily bool
}

const (
	wordNoProxy   = "no-proxy"
	wordProxyOnly = "proxy-only"
	wordShared    = "shared"
	wordOneFamily = "one-family"
)

// CommentText returns the comment of an element for a mapping of that name, such as
// `web [no-proxy]`. [ParseComment] reads it.
func CommentText(name string, a CommentAttributes) string {
	var words []string
	if a.NoProxy {
		words = append(words, wordNoProxy)
	}
	if a.ProxyOnly {
		words = append(words, wordProxyOnly)
	}
	if a.Shared {
		words = append(words, wordShared)
	}
	if a.OneFamily {
		words = append(words, wordOneFamily)
	}
	if len(words) == 0 {
		return name
	}
	attributes := "[" + strings.Join(words, " ") + "]"
	if name == "" {
		return attributes
	}
	return name + " " + attributes
}

// ParseComment reads a comment, which another program may have written. Text that is no
// attribute belongs to the name, brackets and spaces included.
func ParseComment(s string) (name string, a CommentAttributes) {
	if s == "" { // most are empty
		return "", a
	}
	name = s
	for {
		before, words, ok := cutAttributes(name)
		if !ok {
			return HarmlessName(name), a
		}
		name = before
		a.NoProxy, a.ProxyOnly = a.NoProxy || words.NoProxy, a.ProxyOnly || words.ProxyOnly
		a.Shared, a.OneFamily = a.Shared || words.Shared, a.OneFamily || words.OneFamily
	}
}

// cutAttributes cuts the attributes off the end of a comment: words in brackets, at the
// beginning or after a space, of which at least one is known. The others may be those of a
// later version.
func cutAttributes(s string) (name string, a CommentAttributes, ok bool) {
	open := strings.LastIndexByte(s, '[')
	if open < 0 || s[len(s)-1] != ']' || open > 0 && s[open-1] != ' ' {
		return s, a, false
	}
	for word := range strings.FieldsSeq(s[open+1 : len(s)-1]) {
		switch word {
		case wordNoProxy:
			a.NoProxy = true
		case wordProxyOnly:
			a.ProxyOnly = true
		case wordShared:
			a.Shared = true
		case wordOneFamily:
			a.OneFamily = true
		}
	}
	if a == (CommentAttributes{}) {
		return s, a, false
	}
	return s[:max(open-1, 0)], a, true
}

// HarmlessName makes a valid name of text that another program may have written. Control
// characters, double quotes and bytes that are not UTF-8 are escaped as in Go, and the rest
// is cut at maxName bytes.
func HarmlessName(s string) string {
	if nameFault(s) == "" && len(s) <= maxName {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1, r == '"':
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case unicode.IsControl(r):
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		default:
			b.WriteRune(r)
		}
		s = s[n:]
	}
	name := b.String()
	for len(name) > maxName || endsInAttributes(name) {
		_, n := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-n]
	}
	return name
}

// endsInAttributes reports whether the text would be read as a name with attributes.
func endsInAttributes(s string) bool {
	_, _, ok := cutAttributes(s)
	return ok
}
