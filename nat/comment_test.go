// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

func TestComments(t *testing.T) {
	long := strings.Repeat("é", 40)
	for comment, want := range map[string]struct {
		name string
		a    nat.CommentAttributes
	}{
		"":                              {"", nat.CommentAttributes{}},
		"web":                           {"web", nat.CommentAttributes{}},
		"[no-proxy]":                    {"", nat.CommentAttributes{NoProxy: true}},
		"web [no-proxy]":                {"web", nat.CommentAttributes{NoProxy: true}},
		"web [no-proxy one-family]":     {"web", nat.CommentAttributes{NoProxy: true, OneFamily: true}},
		"web [one-family  no-proxy]":    {"web", nat.CommentAttributes{NoProxy: true, OneFamily: true}},
		"a [no-proxy shared]":           {"a", nat.CommentAttributes{NoProxy: true, Shared: true}},
		"[shared]":                      {"", nat.CommentAttributes{Shared: true}},
		"a [no-proxy] [one-family]":     {"a", nat.CommentAttributes{NoProxy: true, OneFamily: true}},
		" web  [no-proxy]":              {" web ", nat.CommentAttributes{NoProxy: true}},
		" [no-proxy]":                   {"", nat.CommentAttributes{NoProxy: true}},
		"[] [no-proxy]":                 {"[]", nat.CommentAttributes{NoProxy: true}},
		"web [no-proxy x]":              {"web", nat.CommentAttributes{NoProxy: true}},
		"web[no-proxy]":                 {"web[no-proxy]", nat.CommentAttributes{}},
		"web []":                        {"web []", nat.CommentAttributes{}},
		"web [no-proxy] ":               {"web [no-proxy] ", nat.CommentAttributes{}},
		"]no-proxy[":                    {"]no-proxy[", nat.CommentAttributes{}},
		"  [ops] do not touch  ":        {"  [ops] do not touch  ", nat.CommentAttributes{}},
		"ticket [4711]":                 {"ticket [4711]", nat.CommentAttributes{}},
		"say \"hi\"":                    {`say \x22hi\x22`, nat.CommentAttributes{}},
		"\x00\x1b[2J":                   {`\x00\x1b[2J`, nat.CommentAttributes{}},
		"a\tb\n \xff":                   {`a\tb\n \xff`, nat.CommentAttributes{}},
		"\u0085\u2028 x":                {"\\u0085\u2028 x", nat.CommentAttributes{}},
		`back\slash`:                    {`back\slash`, nat.CommentAttributes{}},
		long:                            {strings.Repeat("é", 31), nat.CommentAttributes{}},
		strings.Repeat("x", 62) + " yz": {strings.Repeat("x", 62) + " ", nat.CommentAttributes{}},
		// Cut, it would be read as another name.
		strings.Repeat("x", 52) + " [no-proxy]y": {strings.Repeat("x", 52) + " [no-proxy", nat.CommentAttributes{}},
		"\ufffd":                                 {"\ufffd", nat.CommentAttributes{}},
	} {
		name, a := nat.ParseComment(comment)
		require.Equal(t, want.name, name, "%q", comment)
		require.Equal(t, want.a, a, "%q", comment)
	}
}
