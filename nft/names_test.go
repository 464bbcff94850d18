// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func TestCheckName(t *testing.T) {
	for _, name := range []string{
		"nftnat", "a", "Z", "tcp4_host", "nat-output", "v1.2", "filter", "input", "dnats", "Accept", "ips",
		strings.Repeat("a", 255),
	} {
		require.NoError(t, CheckName(name), name)
	}
	for _, name := range []string{
		"", "4tcp", "_a", "-a", ".a", "a b", "a\x00", "a\n", "a*", "a/b", "a@b", "a:b", "a{", `a"`, "ä", "a\xff",
		"accept", "dnat", "ip", "ll", "vni", "zone", strings.Repeat("a", 256),
	} {
		require.Error(t, CheckName(name), "%q", name)
	}
}

func TestKeywordsSorted(t *testing.T) {
	require.True(t, slices.IsSorted(keywords[:]))
	require.Len(t, slices.Compact(slices.Clone(keywords[:])), len(keywords))
	for _, k := range keywords {
		require.Error(t, CheckName(k))
	}
}

// script names everything that can have a name so, and refers to each.
func script(name string) string {
	return strings.NewReplacer("NAME", name).Replace(`
table inet NAME {
	comment "NAME"
	map NAME {
		type inet_service : ipv4_addr . inet_service
		flags timeout
	}
	chain NAME {
		dnat ip to tcp dport map @NAME
	}
	chain a-NAME {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local jump NAME
	}
}
table inet a-NAME {
	set NAME {
		type ipv4_addr
		flags interval
	}
	chain a {
		ip saddr @NAME ip daddr != @NAME drop
	}
}
add element inet NAME NAME { 80 : 192.0.2.1 . 80 }
add element inet a-NAME NAME { 192.0.2.0/24 }
`)
}

// TestCheckNameAgainstNFT compares with nft(8): what CheckName lets pass, nft(8) reads
// everywhere. testdata/words is the vocabulary of nft(8), up to 1.1.
func TestCheckNameAgainstNFT(t *testing.T) {
	ns := labtest.NewNS(t, "names")
	words, err := os.ReadFile("testdata/words")
	require.NoError(t, err)
	names := strings.Fields(string(words))
	r := newRand(t)
	for range 100 {
		names = append(names, randomName(r))
	}
	slices.Sort(names)
	names = slices.DeleteFunc(slices.Compact(names), func(name string) bool { return CheckName(name) != nil })
	require.Greater(t, len(names), 250)
	// In one go nft(8) would need a larger send buffer than a user may have.
	for some := range slices.Chunk(names, 50) {
		var scripts strings.Builder
		for _, name := range some {
			scripts.WriteString(script(name))
		}
		labtest.ExecInput(t, ns, scripts.String(), "nft", "-f", "-")
	}
	// And what an administrator types, which is a process each: some.
	for range 8 {
		name := names[r.IntN(len(names))]
		labtest.Exec(t, ns, "nft", "list", "table", "inet", name)
		labtest.Exec(t, ns, "nft", "list", "map", "inet", name, name)
	}
}

// TestNFTRefusesKeywords makes sure that the script above tells: nft(8) of whatever
// version refuses these.
func TestNFTRefusesKeywords(t *testing.T) {
	ns := labtest.NewNS(t, "names")
	for _, name := range []string{"drop", "ip", "ll", "dnat", "set", "4tcp"} {
		path := fmt.Sprintf("%s/%s.nft", t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, []byte(script(name)), 0o600))
		require.NotZero(t, runNFT(t, ns, "-c", "-f", path).Code, name)
	}
}

func randomName(r *rand.Rand) string {
	const first = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	const rest = first + "0123456789_-."
	b := []byte{first[r.IntN(len(first))]}
	for range r.IntN(12) {
		b = append(b, rest[r.IntN(len(rest))])
	}
	return string(b)
}
