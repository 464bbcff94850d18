// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package printable makes text safe to show on a terminal or to write in a line of a log.
// Names, paths and errors may have been made by others, to clear a screen or to forge a line.
package printable

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Text spells out, as Go does, what is not printable: control characters, characters that
// nobody sees, and bytes that are no text.
func Text(s string) string {
	if isPrintable(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			b.WriteString(`\x` + strconv.FormatUint(uint64(s[0]), 16))
		case strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		s = s[n:]
	}
	return b.String()
}

func isPrintable(s string) bool {
	for i, r := range s {
		if !strconv.IsPrint(r) || r == utf8.RuneError && !strings.HasPrefix(s[i:], "\ufffd") {
			return false
		}
	}
	return true
}

// Line is Text of an error, whose lines are joined to one.
func Line(s string) string { return Text(strings.ReplaceAll(s, "\n", "; ")) }
