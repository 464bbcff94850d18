// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// The same port in two namespaces is two ports.
func TestSocketsApart(t *testing.T) {
	labtest.LeakCheck(t)
	one, two, none := labtest.NewNS(t, "one"), labtest.NewNS(t, "two"), labtest.NewNS(t, "none")
	serve(t, one, two)
	for _, network := range []string{"tcp", "udp", "tcp4", "udp4"} {
		labtest.Reaches(t, one, network, "127.0.0.1:7000", "one")
		labtest.Reaches(t, two, network, "127.0.0.1:7000", "two")
		require.ErrorIs(t, labtest.NoAnswer(t, none, network, "127.0.0.1:7000"), unix.ECONNREFUSED)
	}
	for _, network := range []string{"tcp", "udp", "tcp6", "udp6"} {
		labtest.Reaches(t, one, network, "[::1]:7000", "one")
		require.ErrorIs(t, labtest.NoAnswer(t, none, network, "[::1]:7000"), unix.ECONNREFUSED)
	}
}

func TestSocketAddresses(t *testing.T) {
	ns := labtest.NewNS(t, "one")
	for _, bad := range []string{"localhost:80", "127.0.0.1", "127.0.0.1:http://", "[fe80::1%nothing]:80", ""} {
		_, err := ns.Listen("tcp", bad)
		require.Error(t, err, bad)
		_, err = ns.ListenPacket("udp", bad)
		require.Error(t, err, bad)
		_, err = ns.Dial(context.Background(), "tcp", bad)
		require.Error(t, err, bad)
	}
	_, err := ns.Dial(context.Background(), "icmp", "127.0.0.1:1")
	require.Error(t, err)
	_, err = ns.DialFrom(context.Background(), "ip", "127.0.0.1:1", netip.MustParseAddrPort("127.0.0.1:1"))
	require.Error(t, err)
}

func TestDialFrom(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1})
	serve(t, top.Host, top.Client)
	tests := []struct{ to, from string }{
		{"192.0.2.2:7000", "192.0.2.9:0"},
		{"192.0.2.2:7000", "192.0.2.9:4000"},
		{"192.0.2.2:7000", "192.0.2.9:4000"}, // TIME_WAIT by now
		{"192.0.2.2:7000", "0.0.0.0:4001"},
		{"[2001:db8:1::2]:7000", "[2001:db8:1::9]:4002"},
	}
	for _, tt := range tests {
		for _, network := range []string{"tcp", "udp"} {
			from := netip.MustParseAddrPort(tt.from)
			name, peer, err := lab.Ask(context.Background(), top.Host, network, tt.to, from)
			require.NoError(t, err, tt)
			require.Equal(t, "client", name)
			if !from.Addr().IsUnspecified() {
				require.Equal(t, from.Addr(), peer.Addr(), tt)
			}
			if from.Port() != 0 {
				require.Equal(t, from.Port(), peer.Port(), tt)
			}
		}
	}
	_, err := top.Host.DialFrom(context.Background(), "tcp", "192.0.2.2:7000", netip.MustParseAddrPort("203.0.113.1:0"))
	require.ErrorIs(t, err, unix.EADDRNOTAVAIL)
}

// Both hosts of a wire have an interface of a name the other's has not, and
// neither name exists out here.
func TestLinkLocal(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1})
	serve(t, top.Host)
	h, err := top.Host.Handle()
	require.NoError(t, err)
	defer h.Close()
	link, err := h.LinkByName(lab.HostLAN)
	require.NoError(t, err)
	addrs, err := h.AddrList(link, unix.AF_INET6)
	require.NoError(t, err)
	found := false
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		require.True(t, ok)
		if !ip.IsLinkLocalUnicast() {
			continue
		}
		found = true
		to := netip.AddrPortFrom(ip.WithZone(lab.MachineLink), 7000).String()
		for _, network := range []string{"tcp", "udp"} {
			peer := labtest.Reaches(t, top.Client, network, to, "host")
			require.True(t, peer.Addr().IsLinkLocalUnicast())
			require.Empty(t, peer.Addr().Zone())
		}
	}
	require.True(t, found)
}

func TestListenOwnsPort(t *testing.T) {
	ns := labtest.NewNS(t, "one")
	l, err := ns.Listen("tcp", "127.0.0.1:80")
	require.NoError(t, err)
	closeAtEnd(t, l)
	_, err = ns.Listen("tcp", "127.0.0.1:80")
	require.ErrorIs(t, err, unix.EADDRINUSE)
}
