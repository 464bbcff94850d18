// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portholder

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// sharedPort is a port or a range that is shared, or not.
func sharedPort(t *testing.T, text string, hold nat.Hold) portset.Port {
	t.Helper()
	m := nattest.Mapping(t, text)
	m.Hold = hold
	return portset.Whole(&m)
}

// What a change is about shared ports is split from the rest, which sees those that become shared go, and others come before
// the ports that are chosen.
func TestSplitShared(t *testing.T) {
	own, shared := nat.HoldOwn, nat.HoldShared
	move := func(text string, from, to nat.Hold) portset.Move {
		before, after := sharedPort(t, text, from), sharedPort(t, text, to)
		return portset.Move{Frontend: before.Frontend, From: before.Target, To: after.Target, More: before.More}
	}
	c := portset.Change{
		Added:   []portset.Port{sharedPort(t, "80->172.30.0.2:80", shared), sharedPort(t, "81->172.30.0.2:80", own)},
		Removed: []portset.Port{sharedPort(t, "82->172.30.0.2:80", shared), sharedPort(t, "83->172.30.0.2:80", own)},
		Moved: []portset.Move{
			move("84->172.30.0.2:80", own, own), move("85->172.30.0.2:80", own, shared),
			move("90-99->172.30.0.2:90-99", shared, own), move("87->172.30.0.2:80", shared, shared),
		},
	}
	s, rest := splitShared(Change{Change: &c, Chosen: 1})
	require.Equal(t, []portset.Port{c.Moved[1].After(), c.Added[0]}, s.added)
	require.Equal(t, []portset.Port{c.Removed[0]}, s.removed)
	require.Equal(t, []portset.Port{c.Moved[1].Before()}, s.left)
	require.Equal(t, []portset.Port{c.Moved[2].Before()}, s.returned)
	require.Equal(t, c.Moved[3:], s.moved)
	require.Equal(t, []portset.Port{c.Moved[2].After(), c.Added[1]}, rest.Added)
	require.Equal(t, []portset.Port{c.Removed[1], c.Moved[1].Before()}, rest.Removed)
	require.Equal(t, c.Moved[:1], rest.Moved)
	require.Equal(t, 1, rest.Chosen)

	plain := portset.Change{Added: c.Added[1:]}
	s, rest = splitShared(Change{Change: &plain})
	require.Equal(t, sharedSwitch{}, s)
	require.Same(t, &plain, rest.Change)
}

// A frontend has a proxy for each family of its clients, and a socket that was lent is known by its address.
func TestLocals(t *testing.T) {
	four, six := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
	for text, want := range map[string][]bool{
		"80->172.30.0.2:80": {true, false}, "0.0.0.0:80->172.30.0.2:80": {true}, "127.0.0.5:80->172.30.0.2:80": {true},
		"[::1]:80->172.30.0.2:80": {false}, "[::]:80->[fd00::2]:80": {false},
	} {
		f := sharedPort(t, text, nat.HoldShared).Frontend
		var got []bool
		for l := range localsOf(f) {
			got = append(got, l.Is4)
			require.Equal(t, f, l.Frontend)
		}
		require.Equal(t, want, got, text)
	}
	f := sharedPort(t, "80->172.30.0.2:80", nat.HoldShared).Frontend
	for _, tt := range []struct {
		at netip.AddrPort
		ok bool
	}{
		{netip.AddrPortFrom(four, 4000), true}, {netip.AddrPortFrom(six, 4000), true}, {netip.AddrPortFrom(four, 80), false},
		{netip.AddrPortFrom(netip.IPv6Unspecified(), 4000), false}, {netip.MustParseAddrPort("127.0.0.5:4000"), false},
	} {
		l, ok := localOf(socketAddr(nat.TCP, tt.at), f)
		require.Equal(t, tt.ok, ok, tt.at)
		if ok {
			require.Equal(t, Local{f, tt.at.Addr().Is4()}, l)
		}
	}
	_, ok := localOf(socketAddr(nat.UDP, netip.AddrPortFrom(four, 4000)), f)
	require.False(t, ok)
}

// The proxies' own ports among some ports are found, whether there are more of the one or of the other.
func TestOwnPortsOfProxies(t *testing.T) {
	s := newShared(nil)
	own := func(proto nat.Proto, is4 bool, port uint16) localPort {
		at := localPort{proto, is4, port}
		s.at[at] = Local{}
		return at
	}
	four, six, last := own(nat.TCP, true, 4000), own(nat.TCP, false, 4000), own(nat.TCP, true, 4009)
	own(nat.UDP, true, 4000)
	own(nat.TCP, true, 4010)
	for range 2 {
		require.ElementsMatch(t, []localPort{four, six}, s.ownIn(sharedPort(t, "4000->172.30.0.2:80", nat.HoldOwn)))
		require.ElementsMatch(t, []localPort{four, six, last}, s.ownIn(sharedPort(t, "4000-4009->172.30.0.2:4000-4009", nat.HoldOwn)))
		require.Empty(t, s.ownIn(sharedPort(t, "4001-4008->172.30.0.2:4001-4008", nat.HoldOwn)))
		for port := range uint16(100) {
			own(nat.TCP, true, 9000+port)
		}
	}
}

// A socket that is given for a shared port is not kept: it is for whoever has the port.
func TestGivenForShared(t *testing.T) {
	h := newTestbed(t).Holder
	front := free(t)
	l, err := net.Listen("tcp", front)
	require.NoError(t, err)
	f, err := l.(*net.TCPListener).File()
	require.NoError(t, err)
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, unix.SetNonblock(fd, true))
	require.NoError(t, f.Close())
	p, published := sharedPort(t, front+"->172.30.0.2:80", nat.HoldShared), portset.NewSet()
	require.NoError(t, h.Give(p.Frontend, fd))
	switched(t, h, &published, portset.Change{Added: []portset.Port{p}})
	h.HoldGiven(&published)
	require.NoError(t, l.Close())
	l, err = net.Listen("tcp", front)
	require.NoError(t, err)
	require.NoError(t, l.Close())
}
