// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// ip runs ip(8) in the namespace of the calling thread.
func ip(t *testing.T, args string) {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	require.NoError(t, err, "ip %s: %s", args, out)
}

// echoed asks a frontend in the namespace of the calling thread and expects the answer
// from the address that was asked.
func echoed(t *testing.T, network, addr string) {
	t.Helper()
	c := dial(t, network, addr)
	roundTrip(t, c, phrase)
	require.NoError(t, c.Close())
}

// accepts reports whether a frontend accepts a connection. IPv6 makes and removes the route
// of an address later than the address.
func accepts(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, deadline)
	if err != nil {
		return false
	}
	return c.Close() == nil
}

// TestFreeBind: a port of an address that the host does not have is held, listens, and
// is served when the address comes, goes and comes again.
func TestFreeBind(t *testing.T) {
	inNetNS(t, 65536, func(ns int) {
		tcp, udp := tcpBackend(t, "127.0.0.1:0", echoTCP), udpEcho(t, "127.0.0.1:0")
		g := NewGroup(&GroupOptions{NetNS: ns})
		defer func() { require.NoError(t, g.Close()) }()
		options := &Options{Group: g, FreeBind: true}
		for _, a := range []struct{ ip, prefix string }{{"192.0.2.77", "/32"}, {"2001:db8::77", "/128"}} {
			front := net.JoinHostPort(a.ip, "7000")
			_, err := Bind(mustTCP(t, front), &Options{Group: g})
			require.Error(t, err)
			p, err := New(mustTCP(t, front), tcp, options)
			serve(t, p, err)
			p, err = New(mustUDP(t, front), udp, options)
			serve(t, p, err)
			refused, err := Bind(mustTCP(t, net.JoinHostPort(a.ip, "0")), options)
			require.NoError(t, err)
			require.NoError(t, refused.Refuse())
			for range 2 {
				ip(t, "addr add "+a.ip+a.prefix+" dev lo nodad")
				eventually(t, "the address to be there", func() bool { return accepts(front) })
				echoed(t, "tcp", front)
				echoed(t, "udp", front)
				_, err = net.DialTimeout("tcp", refused.Addr().String(), deadline)
				require.Error(t, err)
				ip(t, "addr del "+a.ip+a.prefix+" dev lo")
				eventually(t, "the address to be gone", func() bool { return !accepts(front) })
			}
			require.NoError(t, refused.Close())
		}
	})
}

// TestAnyIP: an answer leaves from the address that was asked, also if that is one of a
// prefix that is routed to the host as local.
func TestAnyIP(t *testing.T) {
	inNetNS(t, 65536, func(ns int) {
		ip(t, "route add local 203.0.113.0/24 dev lo")
		ip(t, "-6 route add local 2001:db8:7::/64 dev lo")
		tcp, udp := tcpBackend(t, "127.0.0.1:0", echoTCP), udpEcho(t, "127.0.0.1:0")
		g := NewGroup(&GroupOptions{NetNS: ns})
		defer func() { require.NoError(t, g.Close()) }()
		for _, c := range []struct{ front, ask string }{
			{":7000", "203.0.113.5"}, {":7000", "2001:db8:7::5"}, {"0.0.0.0:7000", "203.0.113.5"}, {"[::]:7000", "2001:db8:7::5"},
			{"203.0.113.5:7000", "203.0.113.5"}, {"[2001:db8:7::5]:7000", "2001:db8:7::5"},
		} {
			options := &Options{Group: g, FreeBind: strings.Contains(c.front, c.ask), V6Only: c.front[0] == '['}
			p, err := New(mustTCP(t, c.front), tcp, options)
			require.NoError(t, err)
			require.NoError(t, p.Open())
			q, err := New(mustUDP(t, c.front), udp, options)
			require.NoError(t, err)
			require.NoError(t, q.Open())
			for _, network := range []string{"tcp", "udp"} {
				echoed(t, network, net.JoinHostPort(c.ask, "7000"))
			}
			require.NoError(t, p.Close())
			require.NoError(t, q.Close())
		}
	})
}
