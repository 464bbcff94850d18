// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// However much of an export is cut off, the rest is not taken for one that lists less.
func TestDecodeCutShort(t *testing.T) {
	_, s := designFile(t)
	nothing := nat.State{}
	for _, s := range []nat.State{s, {Mappings: s.Mappings}, nothing} {
		text := encodeState(t, s)
		whole := len(text) - len("\n")
		for n := range text {
			got, err := Decode(strings.NewReader(text[:n]), "f")
			if n == whole {
				require.NoError(t, err)
				continue
			}
			require.ErrorIs(t, err, nat.ErrInvalid, "%q", text[:n])
			require.Zero(t, got)
			require.NotContains(t, err.Error(), "\n")
		}
	}
}

func TestCheckWhole(t *testing.T) {
	const list = "mappings:\n- 80->1.2.3.4\n"
	for _, text := range []string{
		list, list + "...\n", "# c\n" + list, // nothing was promised
		endPromise + "\n" + list + "...", "\n# c\n" + endPromise + "\r\nversion: 1\n" + list + "...\r\n\n",
		endPromise + "\n" + list + "...\n# edited by hand\n\n",
		list + endPromise + "\n", // not at its beginning
	} {
		_, err := Decode(strings.NewReader(text), "f")
		require.NoError(t, err, "%q", text)
	}
	for text, line := range map[string]string{
		endPromise + "\n" + list:                 "3",
		endPromise + "\n" + list + "..":          "4",
		endPromise + "\n" + list + "....\n":      "4",
		endPromise + "\n" + list + "# ...\n":     "3",
		"# c\n" + endPromise + "\n":              "1",
		endPromise + "\n...\n" + list:            "4",
		endPromise + "\n" + list + "  ...\n\n\n": "4",
	} {
		_, err := Decode(strings.NewReader(text), "f")
		require.ErrorIs(t, err, nat.ErrInvalid, "%q", text)
		require.Regexp(t, "^f:"+line+`: invalid file ".*": it was cut short: its first lines say that its last is "..."$`, err.Error(), "%q", text)
	}
}
