// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/bpf"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// entries are maps in memory.
type entries struct {
	ports  map[bpf.LocalEntry]netip.AddrPort // by an entry without backend
	ranges map[bpf.LocalEntry]netip.Addr
	err    error // of the next call that puts something
}

func newEntries() *entries {
	return &entries{ports: map[bpf.LocalEntry]netip.AddrPort{}, ranges: map[bpf.LocalEntry]netip.Addr{}}
}

func (m *entries) Change(remove, put []bpf.LocalEntry) error {
	if err := m.err; err != nil && len(put) != 0 {
		m.err = nil
		return err
	}
	for _, e := range remove {
		e.Backend = netip.AddrPort{}
		delete(m.ports, e)
		delete(m.ranges, e)
	}
	for _, e := range put {
		to := e.Backend
		if e.Backend = (netip.AddrPort{}); e.Last != 0 {
			m.ranges[e] = to.Addr()
		} else {
			m.ports[e] = to
		}
	}
	return nil
}

func (m *entries) Replace(put []bpf.LocalEntry) error {
	clear(m.ports)
	clear(m.ranges)
	return m.Change(nil, put)
}

func (m *entries) Connected(uint64) (frontend, backend netip.AddrPort, ok bool) {
	return frontend, backend, false
}

func (m *entries) AnyLed() bool { return false }

// leads is where a socket that asks for an address and port is led.
func (m *entries) leads(proto uint32, asked netip.AddrPort) netip.AddrPort {
	any := netip.IPv6Unspecified()
	if asked.Addr().Is4() {
		any = netip.IPv4Unspecified()
	}
	for _, a := range []netip.Addr{asked.Addr(), any} {
		if to, ok := m.ports[bpf.LocalEntry{Protocol: proto, Frontend: netip.AddrPortFrom(a, asked.Port())}]; ok {
			return to
		}
		for e, to := range m.ranges {
			if e.Protocol == proto && e.Frontend.Addr() == a && e.Frontend.Port() <= asked.Port() && asked.Port() <= e.Last {
				return netip.AddrPortFrom(to, asked.Port())
			}
		}
	}
	return netip.AddrPort{}
}

var (
	local4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	local5 = netip.AddrFrom4([4]byte{127, 0, 0, 5})
)

// TestLocalhost: after any change, undone or not, each port of localhost leads to its backend and to no other,
// and during it to one that it has before or after, or nowhere.
func TestLocalhost(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 9))
		maps, s := newEntries(), portset.NewSet()
		l := NewLocalhost(maps)
		require.NoError(t, l.Sync(&s))
		for range 80 {
			before := s.Clone()
			c := someChange(r, &s)
			after := before.Clone()
			for p := range c.Before {
				after.DeleteAll(p)
			}
			for p := range c.After {
				after.Put(p)
			}
			require.NoError(t, l.Withdraw(&c))
			for range 20 {
				proto, asked := ask(r)
				if got := maps.leads(protocol(proto), asked); got.IsValid() {
					require.Equal(t, Backend(&before, proto, asked), got)
					if !Backend(&after, proto, asked).IsValid() {
						require.False(t, got.IsValid(), "it goes")
					}
				}
			}
			switch r.IntN(4) {
			case 0:
				require.NoError(t, l.UndoWithdraw(&c))
				after = before
			case 1:
				require.NoError(t, l.Lead(&c))
				require.NoError(t, l.UndoLead(&c))
				require.NoError(t, l.UndoWithdraw(&c))
				after = before
			default:
				require.NoError(t, l.Lead(&c))
			}
			if s = after; r.IntN(10) == 0 {
				require.NoError(t, l.Sync(&s))
			}
			for range 40 {
				proto, asked := ask(r)
				require.Equal(t, Backend(&s, proto, asked), maps.leads(protocol(proto), asked), "seed %d %s", seed, asked)
			}
		}
	}
}

func protocol(p nat.Proto) uint32 {
	if p == nat.UDP {
		return bpf.UDP
	}
	return bpf.TCP
}

func ask(r *rand.Rand) (nat.Proto, netip.AddrPort) {
	a := []netip.Addr{local4, local5, netip.IPv6Loopback()}[r.IntN(3)]
	return []nat.Proto{nat.TCP, nat.UDP}[r.IntN(2)], netip.AddrPortFrom(a, uint16(990+r.IntN(700)))
}

// someChange removes, moves and adds ports and ranges of a set.
func someChange(r *rand.Rand, s *portset.Set) (c portset.Change) {
	backends := []string{"172.30.0.2", "172.30.0.3", "fd00:30::2"}
	p := portset.Port{Frontend: portset.Frontend{Proto: []nat.Proto{nat.TCP, nat.UDP}[r.IntN(2)]}}
	first := uint16(1000 + r.IntN(600))
	if r.IntN(2) == 0 {
		p.More = uint16(r.IntN(600))
	}
	addr := []netip.Addr{{}, {}, netip.IPv4Unspecified(), local5, netip.MustParseAddr("192.0.2.1"), netip.IPv6Loopback()}[r.IntN(6)]
	backend := netip.MustParseAddr(backends[r.IntN(3)])
	p.AddrPort = netip.AddrPortFrom(addr, first)
	p.Backend = netip.AddrPortFrom(backend, first)
	if p.More == 0 && r.IntN(2) == 0 {
		p.Backend = netip.AddrPortFrom(backend, 80)
	}
	p.NoProxy, p.ProxyOnly = r.IntN(8) == 0, r.IntN(8) == 0
	for o := range s.All { // no two may overlap
		if o.Proto == p.Proto && o.AddrPort.Addr() != addr && o.First() <= p.Last() && p.First() <= o.Last() {
			c.Removed = append(c.Removed, o)
			return c
		}
	}
	if r.IntN(3) == 0 {
		for have := range s.In(p) {
			c.Removed = append(c.Removed, have)
		}
		return c
	}
	for have := range s.In(p) {
		to := p.Part(have.First(), have.Last())
		c.Moved = append(c.Moved, portset.Move{Frontend: have.Frontend, From: have.Target, To: to.Target, More: have.More})
	}
	for gap := range s.Without(p) {
		c.Added = append(c.Added, gap)
	}
	return c
}

// TestFull: single ports for which the maps have no room are left to the proxies; what would lead elsewhere is
// an error.
func TestFull(t *testing.T) {
	maps, s := newEntries(), portset.NewSet()
	l := NewLocalhost(maps)
	one, wide := nattest.Mapping(t, "80->172.30.0.2:80"), nattest.Mapping(t, "1000-1999->172.30.0.2:1000-1999")
	maps.err = bpf.ErrFull
	require.NoError(t, l.Lead(&portset.Change{Added: []portset.Port{portset.Of(one)}}))
	require.ErrorIs(t, l.Left(), bpf.ErrFull)
	require.Empty(t, maps.ports)
	whole := portset.Whole(&wide)
	require.NoError(t, l.Lead(&portset.Change{Added: []portset.Port{whole}}))
	hole := portset.Change{Removed: []portset.Port{whole.Part(1500, 1500)}}
	maps.err = bpf.ErrFull
	require.ErrorIs(t, l.Withdraw(&hole), bpf.ErrFull)
	require.NoError(t, l.Sync(&s))
	require.NoError(t, l.Left())
	require.Empty(t, maps.ranges)
}

// TestLeads: which mappings are for sockets of localhost.
func TestLeads(t *testing.T) {
	for text, want := range map[string][3]bool{ // 127.0.0.1, 127.0.0.5, ::1
		"80->172.30.0.2:80":           {true, true, true},
		"80->[fd00:30::2]:80":         {false, false, true},
		"127.0.0.5:80->172.30.0.2:80": {false, true, false},
		"192.0.2.1:80->172.30.0.2:80": {false, false, false},
		"0.0.0.0:80->172.30.0.2:80":   {true, true, false},
	} {
		m := nattest.Mapping(t, text)
		for i, a := range []netip.Addr{local4, local5, netip.IPv6Loopback()} {
			require.Equal(t, want[i], Leads(&m, a), "%s %s", text, a)
		}
		m.ProxyOnly = true
		require.False(t, Leads(&m, local4))
	}
}

// TestTFTP: sockets are not led to a server that answers from other ports, in a range either.
func TestTFTP(t *testing.T) {
	for text, led := range map[string][2]bool{ // the port before that of TFTP, and that
		"69->172.30.0.2:69/udp":         {},
		"6969->172.30.0.2:69/udp":       {},
		"69->172.30.0.2:69":             {false, true},
		"60-80->172.30.0.2:60-80/udp":   {true, false},
		"69-80->172.30.0.2:69-80/udp":   {},
		"60-69->172.30.0.2:60-69/udp":   {true, false},
		"69->172.30.0.2:6969/udp":       {false, true},
		"60-70->172.30.0.2:80-90/udp":   {true, true},
		"70-80->172.30.0.2:70-80/udp":   {},
		"1-65535->172.30.0.2:1-65535":   {true, true},
		"1-999->172.30.0.2:1-999/udp":   {true, false},
		"68-70->172.30.0.3:68-70/udp":   {true, false},
		"50-69->172.30.0.3:50-69/tcp":   {true, true},
		"68->172.30.0.3:69/udp":         {},
		"68->172.30.0.3:68/udp":         {true, false},
		"60-69->172.30.0.3:160-169/udp": {true, true},
	} {
		m := nattest.Mapping(t, text)
		maps, s := newEntries(), portset.NewSet()
		for p := range portset.Expand(&m) {
			s.Put(p)
		}
		l := NewLocalhost(maps)
		for _, way := range []func() error{
			func() error { return l.Lead(&portset.Change{Added: slices.Collect(s.All)}) },
			func() error { return l.Sync(&s) },
		} {
			require.NoError(t, way())
			for i, port := range []uint16{68, 69} {
				asked := netip.AddrPortFrom(local4, port)
				got := maps.leads(protocol(m.Proto), asked)
				require.Equal(t, led[i], got.IsValid(), "%s, %d", text, port)
				require.Equal(t, Backend(&s, m.Proto, asked), got, "%s, %d", text, port)
			}
		}
	}
}
