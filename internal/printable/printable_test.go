// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package printable

import (
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestText(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "",
		"web":                     "web",
		"größe 漢 \ufffd":          "größe 漢 \ufffd",
		`back\slash "quoted"`:     `back\slash "quoted"`,
		"\x1b[2J\x07":             `\x1b[2J\a`,
		"a\r\nb\tc":               `a\r\nb\tc`,
		"\u009b31m\x7f":           `\u009b31m\x7f`,
		"\x9b31m\xff\xc3":         `\x9b31m\xff\xc3`,
		"txt.\u202egpj\u200b":     `txt.\u202egpj\u200b`,
		"no-break\u00a0\u2028end": `no-break\u00a0\u2028end`,
	} {
		require.Equal(t, want, Text(text), "%q", text)
	}
}

func FuzzText(f *testing.F) {
	f.Add("\x1b[2J\xff\u202e漢\n")
	f.Fuzz(func(t *testing.T, s string) {
		text := Text(s)
		require.True(t, utf8.ValidString(text))
		require.Equal(t, -1, strings.IndexFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }), "%q", text)
		require.Equal(t, text, Text(text))
		require.GreaterOrEqual(t, len(text), len(s))
	})
}

func TestLine(t *testing.T) { require.Equal(t, `two; lines\t`, Line("two\nlines\t")) }
