// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// Every valid mapping of a single port is what its element is read back as.
func TestElementRoundTrip(t *testing.T) {
	const seed = 11
	r := rand.New(rand.NewPCG(seed, seed))
	now := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	kinds, table := mapKinds(), Ruleset("nftnat")
	seen := map[string]bool{}
	for range 5000 {
		m := nattest.Random(r)
		if m.Validate() != nil || m.Frontend.Port() == 0 {
			continue
		}
		for m := range nat.Expand(m) {
			m.Expires = m.Expires.Truncate(time.Millisecond)
			e := PortElement(portset.Of(m), now)
			require.NoError(t, nft.Change{Add: []nft.Element{e}}.Validate(table), "%s", m)
			seen[e.Set] = true
			kind, ok := kinds[e.Set]
			require.True(t, ok)
			e.Expires = e.Timeout // as it is read back at once
			p, ok := readPort(&e, kind, now)
			require.True(t, ok)
			m.Masquerade, m.From = false, nat.Sources{} // sets of their own say so
			require.Equal(t, m, p.Mapping())
			require.Equal(t, nft.Element{Set: e.Set, Key: e.Key}, PortKey(p))
			require.True(t, p.SameAs(portset.TargetOf(m)))
		}
	}
	require.Len(t, seen, 16, "all maps were in it")
}

func TestElementOver(t *testing.T) {
	now := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	m := nattest.Mapping(t, "80->172.30.0.2:80")
	m.Expires = now.Add(-time.Hour)
	require.Equal(t, time.Millisecond, PortElement(portset.Of(m), now).Timeout, "zero would be for ever")
}

// Whatever stands in a comment: what is read of it can be shown, saved, loaded, and
// written, and is then what is read.
func FuzzComment(f *testing.F) {
	for _, seed := range []string{
		"", "web", "web [no-proxy]", "[one-family]", "\"", "[[", "]]", "\x00", "\xff", " [no-proxy one-family] ", "\u2028", "\u00a0x\u00a0",
		strings.Repeat("é", 64), strings.Repeat(" ", 70) + "x", "\x85", "x\u3000[no-proxy]",
	} {
		f.Add(seed)
	}
	table := Ruleset("nftnat")
	f.Fuzz(func(t *testing.T, comment string) {
		name, a := nat.ParseComment(comment)
		m := nat.Mapping{Proto: nat.TCP, Frontend: netip.MustParseAddrPort("0.0.0.0:80"), Backend: netip.MustParseAddrPort("172.30.0.2:80"), Name: name}
		require.NoError(t, m.Validate())
		text := nat.CommentText(name, a)
		require.NoError(t, nft.Change{Add: []nft.Element{{
			Set: "tcp4", Key: nft.PortKey(80), Value: m.Backend, Comment: text,
		}}}.Validate(table))
		again, b := nat.ParseComment(text)
		require.Equal(t, name, again)
		require.Equal(t, a, b)
		if m.Name = comment; m.Validate() == nil && nat.Name(comment) == comment {
			require.Equal(t, comment, name, "what an engine wrote")
			require.Zero(t, a)
		}
	})
}
