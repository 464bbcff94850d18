// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nfttest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// TestRandomRanges plays steps with ranges, parts of them and single ports. The model knows
// none: what the kernel's table leads to, looked up as packets do, is what it has for each port.
func TestRandomRanges(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			p := newPlayer(t, rand.New(rand.NewPCG(seed, 51)).IntN)
			for range 100 {
				p.playRanges(seen)
			}
		})
	}
	for _, what := range []string{isDone, isConflict, isNotFound, "range", "hole", "option"} {
		require.Greater(t, seen[what], 10, "%s: too few to mean anything", what)
	}
}

// rangeMapping makes a range, or a mapping of any kind.
func (p *player) rangeMapping() nat.Mapping {
	m := p.mapping()
	if p.choose(3) == 0 {
		return m
	}
	if known := nat.Collapse(p.model.known); len(known) != 0 && p.choose(2) == 0 { // a part of what is there, elsewhere perhaps
		have := known[p.choose(len(known))]
		m.Proto, m.Frontend = have.Proto, have.Frontend
		if p.choose(3) != 0 {
			m = have
		}
	}
	first := spaceFirst + p.choose(spaceLast-spaceFirst+1)
	m.Frontend = netip.AddrPortFrom(m.Frontend.Addr(), uint16(first))
	m.Backend = netip.AddrPortFrom(m.Backend.Addr(), uint16(first))
	m.More = uint16(p.choose(spaceLast - first + 1))
	if !m.Valid() {
		m = p.mapping()
	}
	return m
}

func (p *player) playRanges(seen map[string]int) {
	p.step++
	p.model.expire()
	ms := []nat.Mapping{p.rangeMapping(), p.rangeMapping()}[:1+p.choose(2)]
	outcome := func(want string, err error) {
		seen[want]++
		require.Equal(p, want, p.outcome(err), "step %d: %s: %v", p.step, p.call, err)
	}
	switch n := p.choose(20); {
	case n < 12:
		how := nat.PublishOptions{Replace: n < 8}
		p.call = fmt.Sprintf("publish %+v %s", how, describeAll(ms))
		_, err := p.engine.Publish(context.Background(), how, ms...)
		if overlapping(ms) {
			require.ErrorIs(p, err, nat.ErrInvalid)
			break
		}
		outcome(p.decide(func() string { return p.model.publish(ms, how) }), err)
	case n < 15:
		if known := nat.Collapse(p.model.known); len(known) != 0 && p.choose(3) != 0 {
			ms = []nat.Mapping{known[p.choose(len(known))]}
			ones := slices.Collect(nat.Expand(ms[0]))
			first := p.choose(len(ones))
			ms = nat.Collapse(ones[first : first+1+p.choose(len(ones)-first)])
		}
		p.call = "remove " + describeAll(ms)
		_, err := p.engine.Remove(context.Background(), nat.Removal{Mappings: ms})
		outcome(p.decide(func() string { return p.model.unpublish(ms) }), err)
	case n < 17:
		for _, have := range nat.Collapse(p.model.known) {
			if p.choose(3) != 0 {
				ms = append(ms, have)
			}
		}
		p.call = "apply " + describeAll(ms)
		_, err := p.engine.Apply(context.Background(), ms...)
		if overlapping(ms) {
			require.ErrorIs(p, err, nat.ErrInvalid)
			break
		}
		outcome(p.decide(func() string { return p.model.apply(ms) }), err)
	case n == 17:
		p.call = "expire"
		p.bed.clock.advance(time.Duration(p.choose(7)) * time.Second)
		p.model.expire()
	case n == 18:
		p.call = "reopen"
		if p.choose(2) == 0 {
			require.NoError(p, p.engine.Close())
		}
		p.open()
	default:
		p.call = "flush"
		if p.choose(4) == 0 {
			p.bed.kernel.Flush()
			p.model.flush()
		}
	}
	p.checkRanges(seen)
}

// checkRanges compares the engine, the kernel and an engine that adopts the table with the model.
func (p *player) checkRanges(seen map[string]int) {
	p.Helper()
	where := fmt.Sprintf("step %d: %s", p.step, p.call)
	var have []nat.Mapping
	for _, m := range must(p.engine.Mappings(context.Background())) {
		have = slices.AppendSeq(have, nat.Expand(m))
	}
	slices.SortFunc(have, nat.Compare)
	require.Equal(p, inAllWords(p.model.known), inAllWords(have), where)
	require.Empty(p, misreserved(p.engine, have), where)
	if !p.model.present {
		return
	}
	es := p.bed.ports(p)
	want := map[elementKey]element{}
	for at, e := range p.model.kernel {
		e.expires = e.expires.Round(time.Second)
		want[at] = e
	}
	require.Equal(p, want, lookUpAll(es, p.model.now()), "%s\n%s", where, p.bed.kernel.Dump())
	for _, e := range es {
		require.NotContains(p, e.Set, "_next", where)
		for word, what := range map[string]string{"_range": "range", "holes": "hole", "_from": "option"} {
			if strings.Contains(e.Set, word) {
				seen[what]++
			}
		}
	}
	requireConsistent(p, p.bed, p.engine)
	requireOptions(p.T, p.bed, p.engine)
	requireMasquerades(p.T, &p.engine.core.mappings)
}

// ports are the elements in the table.
func (b *testbed) ports(tb testing.TB) (es []nft.Element) {
	tb.Helper()
	b.edit(tb, func(t *nfttest.Table) { es = slices.Clone(t.Elements) })
	return es
}

// lookUpAll returns what the elements give for each port, asked in the order of the rules: single
// ports, holes, ranges.
func lookUpAll(es []nft.Element, now time.Time) map[elementKey]element {
	found, holes := map[elementKey]element{}, map[elementKey]bool{}
	isPort := func(set string) bool {
		return (strings.HasPrefix(set, "tcp") || strings.HasPrefix(set, "udp")) && !strings.HasSuffix(set, "_from") &&
			!strings.Contains(set, "_ended") && !strings.Contains(set, "_out")
	}
	of := func(e nft.Element, value netip.AddrPort) element {
		got := element{backend: value, comment: e.Comment}
		if e.Timeout != 0 {
			got.expires = now.Add(e.Expires).Round(time.Second)
		}
		return got
	}
	for _, e := range es {
		switch {
		case strings.HasPrefix(e.Set, "holes"):
			proto, at, _ := e.Key.Service()
			set := map[uint8]string{6: "tcp", 17: "udp"}[proto] + map[bool]string{true: "4", false: "6"}[at.Addr().Is4()]
			if at.Addr().IsUnspecified() {
				at = netip.AddrPortFrom(netip.Addr{}, at.Port())
			} else {
				set += "_host"
			}
			holes[elementKey{set, at}] = true
		case isPort(e.Set) && !strings.HasSuffix(e.Set, "_range"):
			found[elementKey{e.Set, e.Key.AddrPort()}] = of(e, e.Value)
		}
	}
	for _, e := range es {
		set, isRange := strings.CutSuffix(e.Set, "_range")
		if !isPort(e.Set) || !isRange {
			continue
		}
		var first, last int
		var host netip.Addr
		if strings.Contains(set, "_to") {
			first, last, host = int(e.Key.AddrPort().Port()), int(e.Value.Port()), e.Key.AddrPort().Addr()
		} else {
			r, _ := e.Key.Range()
			first, last, host = int(r.First), int(r.Last), r.Addr.Addr()
		}
		for port := first; port <= last; port++ {
			at := elementKey{set, netip.AddrPortFrom(host, uint16(port))}
			if _, ok := found[at]; !ok && !holes[at] {
				found[at] = of(e, netip.AddrPortFrom(e.Value.Addr(), uint16(port)))
			}
		}
	}
	return found
}
