// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portholder

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// fakePorts are ports in memory.
type fakePorts struct {
	ports map[uint16]bool
	added func(bpf.Range) // nil: nobody asks
}

func (f *fakePorts) Add(r bpf.Range) error {
	if f.added != nil {
		f.added(r)
	}
	for port := int(r.First); port <= int(r.Last); port++ {
		f.ports[uint16(port)] = true
	}
	return nil
}

func (f *fakePorts) Remove(r bpf.Range) error {
	for port := int(r.First); port <= int(r.Last); port++ {
		delete(f.ports, uint16(port))
	}
	return nil
}

func (f *fakePorts) Replace(ranges []bpf.Range) error {
	clear(f.ports)
	for _, r := range ranges {
		_ = f.Add(r)
	}
	return nil
}

func (f *fakePorts) Exempt(int) error { return nil }

func (f *fakePorts) Lead(int) error { return nil }

func newGuarded(t *testing.T) (h *Holder, guard, lookup *fakePorts) {
	t.Helper()
	guard, lookup = &fakePorts{ports: map[uint16]bool{}}, &fakePorts{ports: map[uint16]bool{}}
	h = newTestbed(t).Holder
	h.opts.Guard, h.opts.Lookup = guard, lookup
	h.opts.Clients = func() (hostnet.PortRange, error) { return hostnet.PortRange{First: 62000, Last: 63000}, nil }
	return h, guard, lookup
}

func whole(t *testing.T, text string) portset.Port {
	t.Helper()
	m := nattest.Mapping(t, text)
	return portset.Whole(&m)
}

func switched(t *testing.T, h *Holder, s *portset.Set, c portset.Change) {
	t.Helper()
	sw := h.Switch(Change{Change: &c})
	require.NoError(t, sw.Bind())
	require.NoError(t, sw.Serve())
	sw.Finish()
	for _, p := range c.Removed {
		h.RetireAll(p)
	}
	for p := range c.Before {
		s.DeleteAll(p)
	}
	for p := range c.After {
		s.Put(p)
	}
}

// TestRanges: a range has no socket for each port, a port that leaves it has one, and each is held once.
func TestRanges(t *testing.T) {
	h, guard, lookup := newGuarded(t)
	s := portset.NewSet()
	wide := whole(t, "61000-64000->192.0.2.9:61000-64000/udp")
	switched(t, h, &s, portset.Change{Added: []portset.Port{wide}})
	require.Len(t, guard.ports, 3001)
	require.Len(t, lookup.ports, 2000, "no ports of clients")
	require.Empty(t, h.ports)
	require.Len(t, h.many.proxies, 1)
	require.Equal(t, netip.MustParseAddrPort("192.0.2.9:61500"), h.many.backends(nat.UDP)(netip.MustParseAddrPort("127.0.0.1:61500")))
	require.Zero(t, h.many.backends(nat.UDP)(netip.MustParseAddrPort("127.0.0.1:60999")))
	require.Zero(t, h.many.backends(nat.TCP)(netip.MustParseAddrPort("127.0.0.1:61500")))

	// A port that is given to another, undone and done, and one that goes.
	at := wide.Part(61500, 61500)
	other := at.Target
	other.Backend = netip.MustParseAddrPort("192.0.2.8:80")
	moved := portset.Change{Moved: []portset.Move{{Frontend: at.Frontend, From: at.Target, To: other}}}
	sw := h.Switch(Change{Change: &moved})
	require.NoError(t, sw.Bind())
	require.NoError(t, sw.Serve())
	require.NoError(t, sw.UndoServe())
	require.NoError(t, sw.UndoBind())
	require.Empty(t, h.ports)
	require.True(t, guard.ports[61500] && lookup.ports[61500])
	switched(t, h, &s, moved)
	require.Len(t, h.ports, 1)
	require.False(t, guard.ports[61500] || lookup.ports[61500])
	switched(t, h, &s, portset.Change{Removed: []portset.Port{wide.Part(61501, 61501)}})
	require.False(t, guard.ports[61501] || lookup.ports[61501])
	require.Zero(t, h.many.backends(nat.UDP)(netip.MustParseAddrPort("127.0.0.1:61501")))

	// What is published says the same.
	h.Sync(&s)
	require.Len(t, guard.ports, 2999)
	require.Len(t, lookup.ports, 1998)
	require.Len(t, h.ports, 1)
	require.Zero(t, h.Unserved(&s))

	gone := portset.Change{}
	for p := range s.All {
		gone.Removed = append(gone.Removed, p)
	}
	switched(t, h, &s, gone)
	require.Empty(t, guard.ports)
	require.Empty(t, lookup.ports)
	require.Empty(t, h.ports)
	require.Empty(t, h.many.spans)
}

// TestRejoin: a port that was given to another mapping and comes back to its range has no socket of its own. With a guard, it
// is held before the socket is closed.
func TestRejoin(t *testing.T) {
	for _, guarded := range []bool{true, false} {
		h, guard, lookup := newGuarded(t)
		if !guarded {
			h.opts.Guard = nil
		}
		front := free(t)
		at := netip.MustParseAddrPort(front).Port()
		wide := whole(t, fmt.Sprintf("127.0.0.1:%d-%d->192.0.2.9:%[1]d-%[2]d", at-600, at+600))
		s := portset.NewSet()
		switched(t, h, &s, portset.Change{Added: []portset.Port{wide}})
		one, some := wide.Part(at, at), wide.Part(at-20, at-11)
		other := one.Target
		other.Backend = netip.MustParseAddrPort("192.0.2.8:80")
		for range 3 {
			switched(t, h, &s, portset.Change{Moved: []portset.Move{{Frontend: one.Frontend, From: one.Target, To: other}}, Removed: []portset.Port{some}})
			require.Len(t, h.ports, 1)
			require.Zero(t, h.Unserved(&s), "what is left of the range is served, though it may be narrow now")
			back := portset.Change{Moved: []portset.Move{{Frontend: one.Frontend, From: other, To: one.Target}}, Added: []portset.Port{some}}
			guard.added = func(r bpf.Range) {
				if r.First <= at && r.Last >= at {
					_, err := net.Listen("tcp", front)
					require.ErrorIs(t, err, unix.EADDRINUSE)
				}
			}
			switched(t, h, &s, back)
			h.Rejoin(&s, back.After)
			guard.added = nil
			require.Empty(t, h.ports)
			require.Len(t, h.many.spans[spaceOf(wide.Frontend)], 1)
			require.Equal(t, guarded, guard.ports[at])
			require.True(t, lookup.ports[at])
			l := listen(t, front) // by the fake of a guard, others are not kept from it
			require.NoError(t, l.Close())
		}
	}
}

// TestRangeHeld: a range is refused if another program has a port of it, and nothing of it is held then; if it was
// adopted, the port is left to that program until it is free.
func TestRangeHeld(t *testing.T) {
	h, guard, lookup := newGuarded(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	wide := whole(t, "1000-65535->192.0.2.9:1000-65535")
	// The socket is of this process, and not the Holder's.
	sw := h.Switch(Change{Change: &portset.Change{Added: []portset.Port{wide}}})
	require.Error(t, sw.Bind())
	require.NoError(t, sw.UndoBind())
	require.Empty(t, guard.ports)
	var taken *TakenError
	sw = h.Switch(Change{Change: &portset.Change{Added: []portset.Port{wide}}, Chosen: 1})
	require.ErrorAs(t, sw.Bind(), &taken)
	require.NoError(t, sw.UndoBind())

	s := portset.NewSet()
	s.Put(wide)
	h.Sync(&s)
	require.True(t, guard.ports[port])
	require.False(t, lookup.ports[port])
	require.NotZero(t, h.Unserved(&s))
	require.NoError(t, l.Close())
	require.NoError(t, h.hold(wide.Part(port, port)))
	require.True(t, lookup.ports[port])
}

// TestNotLed: the ports of clients are led to no proxy over UDP.
func TestNotLed(t *testing.T) {
	h, _, _ := newGuarded(t)
	s := portset.NewSet()
	for _, text := range []string{
		"61000-62999->192.0.2.9:61000-62999/udp", "1000-2000->192.0.2.9:1000-2000/udp", "61000-65000->192.0.2.9:61000-65000", "63000->192.0.2.9:63000/udp",
	} {
		s.Put(whole(t, text))
	}
	require.Equal(t, []portset.Port{whole(t, "62000-62999->192.0.2.9:62000-62999/udp")}, h.NotLed(&s))
	require.Empty(t, h.NotServed(&s))
	h.opts.Lookup = nil
	require.Empty(t, h.NotLed(&s))
	require.Len(t, h.NotServed(&s), 3)
}

// TestSpans: against a map of ports.
func TestSpans(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	h, _, _ := newGuarded(t)
	model := map[uint16]netip.Addr{}
	sp := space{nat.TCP, netip.Addr{}}
	for range 500 {
		first := uint16(1 + r.IntN(200))
		last := first + uint16(r.IntN(100))
		to := netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(3))})
		if r.IntN(2) == 0 {
			h.many.put(sp, span{first, last, to, true})
		} else {
			to = netip.Addr{}
			h.many.spans[sp] = cut(h.many.spans[sp], first, last)
		}
		for port := first; port <= last; port++ {
			model[port] = to
		}
		for port := uint16(1); port < 310; port++ {
			got := h.many.backends(nat.TCP)(netip.AddrPortFrom(netip.IPv6Loopback(), port))
			require.Equal(t, model[port], got.Addr())
		}
	}
}

// countingGuard counts the sockets that it lets bind its ports.
type countingGuard struct {
	*fakePorts
	exempt int
}

func (g *countingGuard) Exempt(int) error { g.exempt++; return nil }

// TestFormerGuard: while the guard of another process is in force too, each socket may bind what that one holds; what the own one
// holds, only those that take a port of it.
func TestFormerGuard(t *testing.T) {
	h, fake, _ := newGuarded(t)
	guard, former := &countingGuard{fake, 0}, 0
	h.opts.Guard, h.opts.Exempt = guard, func(int) error { former++; return nil }
	s := portset.NewSet()
	single := whole(t, "61000->192.0.2.9:80")
	switched(t, h, &s, portset.Change{Added: []portset.Port{single}})
	require.Equal(t, [2]int{0, 1}, [2]int{guard.exempt, former})
	wide := whole(t, "62000-64000->192.0.2.9:62000-64000")
	switched(t, h, &s, portset.Change{Added: []portset.Port{wide}})
	require.Positive(t, guard.exempt, "the socket of the range")
	require.Equal(t, guard.exempt+1, former)
	guard.exempt, former = 0, 0
	at := wide.Part(63000, 63000)
	other := at.Target
	other.Backend = netip.MustParseAddrPort("192.0.2.8:80")
	moved := portset.Change{Moved: []portset.Move{{Frontend: at.Frontend, From: at.Target, To: other}}}
	switched(t, h, &s, moved)
	require.Equal(t, [2]int{1, 1}, [2]int{guard.exempt, former})
	require.NoError(t, h.Begin())
	other.Backend = netip.MustParseAddrPort("192.0.2.8:81")
	at = wide.Part(63001, 63001)
	switched(t, h, &s, portset.Change{Moved: []portset.Move{{Frontend: at.Frontend, From: at.Target, To: other}}})
	require.Equal(t, [2]int{2, 1}, [2]int{guard.exempt, former})
}
