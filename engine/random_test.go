// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// mapping makes a valid mapping.
func (p *player) mapping() nat.Mapping {
	m := nat.Mapping{Proto: nat.TCP, Name: []string{"", "", "web", "a b"}[p.choose(4)]}
	if p.choose(2) == 0 {
		m.Proto = nat.UDP
	}
	host, backend := "", []string{"172.30.0.2", "172.30.0.3", "10.9.0.2", "203.0.113.7"}[p.choose(4)]
	switch p.choose(5) {
	case 0:
		backend = []string{"fd00:30::2", "2001:db8:9::2"}[p.choose(2)]
	case 1:
		host = []string{"0.0.0.0", local4, otherLocal4, "127.0.0.1"}[p.choose(4)]
	case 2:
		host = []string{"::", local6, "::1"}[p.choose(3)]
		backend = []string{"fd00:30::2", "2001:db8:9::2"}[p.choose(2)]
	}
	if p.choose(10) == 0 { // perhaps one family to the other
		backend = []string{"fd00:30::2", "172.30.0.2"}[p.choose(2)]
	}
	addr := netip.Addr{}
	if host != "" {
		addr = netip.MustParseAddr(host)
	}
	m.Frontend = netip.AddrPortFrom(addr, uint16(spaceFirst+p.choose(spaceLast-spaceFirst+1)))
	m.Backend = netip.AddrPortFrom(netip.MustParseAddr(backend), uint16(80+p.choose(2)))
	p.options(&m)
	if p.choose(4) == 0 {
		m.More = uint16(p.choose(3))
	}
	if p.choose(4) == 0 { // 5 s apart: what is nearer than one may be the same
		m.Expires = p.bed.clock.Now().Add(time.Duration(1+p.choose(3)) * 5 * time.Second).Truncate(5 * time.Second)
	}
	return m
}

// options gives a mapping options, as far as it can have them.
func (p *player) options(m *nat.Mapping) {
	with := *m
	with.NoProxy, with.ProxyOnly, with.Masquerade = p.choose(4) == 0, p.choose(6) == 0, p.choose(8) == 0
	if p.choose(6) == 0 {
		texts := [][]string{{"192.0.2.0/24"}, {"2001:db8::/32", "10.0.0.1"}, {"0.0.0.0/0", "::/0"}, {"fd00::/8"}}[p.choose(4)]
		with.From, _ = nat.ParseSources(texts...)
	}
	if with.Valid() {
		*m = with
	}
}

func (p *player) mappings(n int) []nat.Mapping {
	ms := make([]nat.Mapping, n)
	for i := range ms {
		ms[i] = p.mapping()
	}
	return ms
}

// TestRandomSequences plays thousands of steps.
func TestRandomSequences(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			p := newPlayer(t, rand.New(rand.NewPCG(seed, 0)).IntN)
			for range 800 {
				p.play()
			}
			for outcome, n := range p.seen {
				seen[outcome] += n
			}
		})
	}
	for _, outcome := range []string{isDone, isInvalid, isConflict, isNotFound, isExhausted, hasDrifted, isSame} {
		require.Greater(t, seen[outcome], 10, "%s: too few to mean anything", outcome)
	}
}

// FuzzEngine takes its decisions from the input, and stops at its end.
func FuzzEngine(f *testing.F) {
	f.Add([]byte{})
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 1))
		input := make([]byte, 400)
		for i := range input {
			input[i] = byte(r.IntN(256))
		}
		f.Add(input)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		p := newPlayer(t, func(n int) int {
			if len(input) == 0 {
				return 0
			}
			b := int(input[0])
			input = input[1:]
			return b % n
		})
		for steps := 0; len(input) > 0 && steps < 200; steps++ {
			p.play()
		}
	})
}
