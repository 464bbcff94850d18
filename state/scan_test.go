// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// Scan reads what Decode reads, in a list or one by one, and refuses the same.
func TestScan(t *testing.T) {
	var lines []string
	for i := range manyLines {
		lines = append(lines, fmt.Sprintf("- %d->10.1.%d.%d:80", 1000+2*i, i>>8, i&255))
	}
	lines[7] = `- {mapping: "1014-1015->[fd00::2]:1014-1015", name: web, from: ["fd00::/8"], expires: 2127-01-01T00:00:00Z}`
	file := func(lines []string, more string) string {
		return "# a\nnetworks:\n- {name: in, prefix: 172.30.0.0/24}\nmappings:\n" + strings.Join(lines, "\n") + "\n" + more
	}
	set := func(i int, line string) []string {
		some := slices.Clone(lines)
		some[i] = line
		return some
	}
	for _, c := range []struct {
		name, file string
		many       bool
	}{
		{"in order", file(append(slices.Clone(lines), "- 53->10.1.0.1:53/udp"), ""), true},
		{"with a byte order mark", byteOrderMark + file(lines, ""), true},
		{"not in order", file(append([]string{"- 65535->10.1.0.1:80"}, lines...), ""), false},
		{"few", file(lines[:manyLines/2], ""), false},
		{"an endpoint", file(lines, "endpoints:\n- {name: e, address: 172.30.0.2, ports: [\"1:1\"]}\n"), false},
		{"two of a port", file(set(100, lines[99]), ""), false},
		{"a port of a range", file(set(8, "- 1015->10.1.0.1:80"), ""), false},
		{"port 0", file(set(0, "- 0->10.1.0.1:80"), ""), false},
		{"not valid", file(set(100, "- 1200->127.0.0.1:80"), ""), false},
		{"no mapping", file(set(100, "- x"), ""), false},
		{"a network twice", file(lines, "networks: []\n"), false},
		{"cut off", endPromise + "\n" + file(lines, ""), false},
	} {
		want, wantErr := Decode(strings.NewReader(c.file), "f")
		have, more, err := Scan(strings.NewReader(c.file), "f")
		require.Equal(t, wantErr, err, c.name)
		require.Equal(t, c.many, more.Len != 0, c.name)
		if c.many {
			require.Empty(t, have.Mappings, c.name)
			require.Equal(t, want.Mappings, more.Slice(), c.name)
			have.Mappings = more.Slice() // the same again
		}
		require.Equal(t, want, have, c.name)
	}
	_, more, err := Scan(strings.NewReader(file(lines, "")), "f")
	require.NoError(t, err)
	for m := range more.All {
		require.Equal(t, uint16(1000), m.Frontend.Port())
		break
	}
	require.Nil(t, nat.Mappings{}.Slice())
}
