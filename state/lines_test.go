// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// requireLikeLibrary checks that what decodeLines reads is what the library reads, and reports
// whether it reads it.
func requireLikeLibrary(tb testing.TB, file string) bool {
	tb.Helper()
	have, ok := decodeLines(file)
	if ok {
		want, fault := decodeYAML(file)
		require.Nil(tb, fault, file)
		require.Equal(tb, want, have, file)
	}
	return ok
}

func TestDecodeLines(t *testing.T) {
	for _, file := range []string{
		"mappings: []",
		"---\nmappings:\n- 8080->172.17.0.2:80\n# more\n\n- 4->[fd00::2]:4\n",
		"# a\nversion: 1\nmappings:\n    - \"[::]:1->[fd00::2]:1/udp\"\n  # b\n    - 53->172.17.0.2:53/udp\n...\n# c\n",
		"mappings:\n  - {mapping: \"80->1.2.3.4:80\", name: web, proxy: false, from: [192.0.2.0/24, \"fd00::/8\", 192.0.2.1], expires: 2027-01-01T00:00:00Z}\n",
		"mappings:\n  - {mapping: 80->1.2.3.4:80, proxy_only: true}\n  - {name: \"5\", mapping: 81->1.2.3.4:80, masquerade: true}\nversion: 1\n",
		"networks:\n  - {name: in, prefix: 172.30.0.0/24, gateway: 172.30.0.1, next: 172.30.0.3, guard: false}\nendpoints:\n" +
			"  - {name: web, network: in, address: 172.30.0.2, ports: [\"8080:80\", \"53:53/udp\"]}\n",
	} {
		require.True(t, requireLikeLibrary(t, file), file)
	}
	for _, file := range []string{
		"", "version: 1\n", "mappings:\n", "mappings:\nversion: 1\n", "mappings: []\nmappings: []\n", "mappings: []\n...\nversion: 1\n",
		"- 80->1.2.3.4\n", "mappings:\n- 80->1.2.3.4\n  - 81->1.2.3.4\n", "mappings:\n- 80->1.2.3.4 # web\n", "mappings:\n- '80->1.2.3.4'\n",
		"mappings:\n- &a 80->1.2.3.4\n", "mappings:\n- {mapping: 80->1.2.3.4,name: a}\n", "mappings:\n- {mapping: 80->1.2.3.4, mapping: 80->1.2.3.4}\n",
		"mappings:\n- {mapping: 80->1.2.3.4, name: null}\n", "mappings:\n- {mapping: 80->1.2.3.4, name: 12}\n", "mappings:\n- {mapping: 80->1.2.3.4, x: y}\n",
		"mappings:\n- {mapping: 80->1.2.3.4, proxy: [true}\n", "mappings:\n- {mapping: \"80->1.2.3.4\", name: \"a\\\\b\"}\n", "mappings:\n- {}\n",
		"mappings:\n- {mapping: 80->[fd00::1]:80}\n", "mappings:\n- 80->fd00::\n", "mappings:\n- 80\n", "mappings: [80->1.2.3.4]\n", "a\n",
		"mappings:\r\n- 80->1.2.3.4\r\n", "# \x01\nmappings: []\n", "mappings:\n- 80->1.2.3.4\n- 80->1.2.3.4\n", "mappings:\n- \"80->1.2.3.4\" a\n",
	} {
		_, ok := decodeLines(file)
		require.False(t, ok, file)
	}
}

// What Encode writes is read so, and of what becomes of it by accident the library reads the same.
func TestDecodeLinesOfEncode(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	bytes := []byte("019afz->:./[]{}\"', #\\\n-\tTZé")
	changed := 0
	for range 300 {
		file := encodeState(t, randomState(r))
		if !strings.ContainsAny(file, "\\") && strings.IndexFunc(file, func(c rune) bool { return c > '~' }) < 0 {
			require.True(t, requireLikeLibrary(t, file), file)
		}
		for range 30 {
			b := []byte(file)
			for range 1 + r.IntN(2) {
				i := r.IntN(len(b))
				switch r.IntN(3) {
				case 0:
					b[i] = bytes[r.IntN(len(bytes))]
				case 1:
					b = append(b[:i], b[i+1:]...)
				default:
					b = append(b[:i], append([]byte{bytes[r.IntN(len(bytes))]}, b[i:]...)...)
				}
			}
			if requireLikeLibrary(t, string(b)) {
				changed++
			}
		}
	}
	require.Greater(t, changed, 300)
}

func BenchmarkDecodeLines(b *testing.B) {
	file := encode(b, many(b, "")...)
	b.ReportAllocs()
	for b.Loop() {
		if s, ok := decodeLines(file); !ok || len(s.Mappings) != 60000 {
			b.Fatal("not read")
		}
	}
}
