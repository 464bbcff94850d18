// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package packets

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// packet is one of a small world, in which every packet can be asked for.
type packet struct {
	class    Class
	port     uint16
	dst, src netip.Addr
	link     string
}

func everyPacket() (all []packet) {
	for c := range Class(classes) {
		for _, port := range []uint16{0, 1, 2, 3, 1<<16 - 1} {
			for d := range 4 {
				for s := range 4 {
					for _, link := range []string{"a", "b", "c"} {
						all = append(all, packet{c, port, addr(c.Is6(), d), addr(c.Is6(), s), link})
					}
				}
			}
		}
	}
	return all
}

// addr is the first, two in the middle, and the last address.
func addr(six bool, n int) netip.Addr {
	texts := []string{"0.0.0.0", "10.0.0.1", "10.0.0.2", "255.255.255.255"}
	if six {
		texts = []string{"::", "fd00::1", "fd00::2", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}
	}
	return netip.MustParseAddr(texts[n])
}

func (b Box) contains(p packet) bool {
	return b.Classes.Has(p.class) && b.First <= p.port && p.port <= b.Last && b.Dst.Has(p.dst) && b.Src.Has(p.src) && (b.Links.Any() || b.Links.has(p.link))
}

func random(r *rand.Rand) Box {
	b := Whole()
	if r.IntN(2) == 0 {
		b.Classes = Classes(r.IntN(int(All))) + 1
	}
	if r.IntN(3) > 0 {
		b.First = uint16(r.IntN(4))
		b.Last = b.First + uint16(r.IntN(3))
	}
	span := func() (s Span) {
		if r.IntN(2) == 0 {
			return s
		}
		six := r.IntN(2) == 0
		first := r.IntN(4)
		return Span{addr(six, first), addr(six, first+r.IntN(4-first))}
	}
	b.Dst, b.Src = span(), span()
	switch r.IntN(4) {
	case 0:
		b.Links = Links{true, []string{[]string{"a", "b", "c"}[r.IntN(3)]}}
	case 1:
		b.Links = Links{false, []string{[]string{"a", "b", "c"}[r.IntN(3)]}}
	}
	return b
}

// A region has just the packets that were put in and not taken out, each once.
func TestRegionRandom(t *testing.T) {
	all := everyPacket()
	for seed := range uint64(6) {
		r := rand.New(rand.NewPCG(seed, 0))
		region := NewRegion(All)
		has := map[packet]bool{}
		for _, p := range all {
			has[p] = true
		}
		var out []Piece
		for range 20 {
			if len(out) > 0 && r.IntN(3) == 0 {
				region.Add(out...)
				for _, p := range all {
					for _, piece := range out {
						if piece.Box().contains(p) {
							require.False(t, has[p])
							has[p] = true
						}
					}
				}
				out = nil
				continue
			}
			b := random(r)
			taken := region.TakeOut(b)
			for _, p := range all {
				n := 0
				for _, piece := range taken {
					if piece.Box().contains(p) {
						n++
					}
				}
				want := 0
				if has[p] && b.contains(p) {
					want = 1
				}
				require.Equal(t, want, n, "seed %d: %v of %v", seed, p, b)
				has[p] = has[p] && n == 0
			}
			out = append(out, taken...)
			n := 0
			for _, piece := range region.Pieces() {
				for _, p := range all {
					if piece.Box().contains(p) {
						require.True(t, has[p])
						n++
					}
				}
			}
			left := 0
			for _, is := range has {
				if is {
					left++
				}
			}
			require.Equal(t, left, n, "seed %d", seed)
		}
	}
}

func TestMinus(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	all := everyPacket()
	for range 100 {
		a, b := random(r), random(r)
		rest := a.Minus(b)
		for _, p := range all {
			n := 0
			for _, part := range rest {
				if part.contains(p) {
					n++
				}
			}
			want := 0
			if a.contains(p) && !b.contains(p) {
				want = 1
			}
			require.Equal(t, want, n, "%v of %v - %v", p, a, b)
		}
	}
}

func TestSpan(t *testing.T) {
	p := netip.MustParsePrefix
	for text, want := range map[string][]netip.Prefix{
		"10.0.0.0/24":         {p("10.0.0.0/24")},
		"10.0.0.1/32":         {p("10.0.0.1/32")},
		"0.0.0.0/0":           {p("0.0.0.0/0")},
		"::/0":                {p("::/0")},
		"255.255.255.255/32":  {p("255.255.255.255/32")},
		"2001:db8::/33":       {p("2001:db8::/33")},
		"128.0.0.0/1":         {p("128.0.0.0/1")},
		"fd00::1:0:0:0:0/128": {p("fd00::1:0:0:0:0/128")},
	} {
		require.Equal(t, want, SpanOf(p(text)).Prefixes(nil), text)
	}
	a := netip.MustParseAddr
	require.Equal(t, "[10.0.0.1/32 10.0.0.2/31 10.0.0.4/32]", fmt.Sprint(Span{a("10.0.0.1"), a("10.0.0.4")}.Prefixes(nil)))
	require.True(t, SpanOf(p("::/0")).Any())
	require.True(t, Everyone([]Span{{a("10.0.0.1"), a("255.255.255.255")}, {a("0.0.0.0"), a("10.0.0.0")}, {a("10.0.0.5"), a("10.0.0.6")}}, false))
	require.False(t, Everyone([]Span{{a("10.0.0.1"), a("255.255.255.255")}, {a("0.0.0.0"), a("9.255.255.255")}}, false))
	require.True(t, Everyone([]Span{{}}, true))
	require.False(t, Everyone(nil, true))
	require.Equal(t, "10.0.0.1-10.0.0.4", Span{a("10.0.0.1"), a("10.0.0.4")}.String())
	require.Equal(t, "ip tcp", TCP4.String())
	require.Equal(t, "invalid", Class(9).String())
}

// Sixty thousand ports that are taken one by one are a matter of a second.
func TestManyPorts(t *testing.T) {
	region := NewRegion(All)
	for port := range uint16(60_000) {
		require.Len(t, region.TakeOut(Box{Classes: 1 << TCP4, First: port, Last: port}), 1)
	}
	require.Equal(t, 6, region.Len())
}
