// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestResetClients: the connections and flows of the clients that match end, and no others.
func TestResetClients(t *testing.T) {
	noLeak(t)
	g := newGroup(t, &GroupOptions{Loops: 2})
	tcp, udp := tcpBackend(t, "[::1]:0", echoTCP), udpEcho(t, "[::1]:0")
	is := func(host string) func(netip.Addr) bool {
		return func(a netip.Addr) bool { return a == netip.MustParseAddr(host) }
	}
	for _, bind := range []string{"", "0.0.0.0", "127.0.0.1"} {
		p, err := New(mustTCP(t, net.JoinHostPort(bind, "0")), tcp, &Options{Group: g})
		serve(t, p, err)
		q, err := New(mustUDP(t, net.JoinHostPort(bind, "0")), udp, &Options{Group: g})
		serve(t, q, err)
		from := func(host string, to Proxy) net.Conn {
			var d net.Dialer
			network := to.FrontendAddr().Network()
			if network == "tcp" {
				d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(host)}
			} else {
				d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(host)}
			}
			c, err := d.Dial(network, at("127.0.0.1", to.FrontendAddr()))
			require.NoError(t, err)
			t.Cleanup(func() { _ = c.Close() })
			require.NoError(t, c.SetDeadline(time.Now().Add(deadline)))
			roundTrip(t, c, phrase)
			return c
		}
		var stay []net.Conn
		for range 4 { // on each loop
			for _, px := range []Proxy{p, q} {
				from("127.0.0.2", px)
				stay = append(stay, from("127.0.0.3", px))
			}
		}
		gone := from("127.0.0.2", p)
		require.NoError(t, p.ResetClients(is("127.0.0.9")))
		require.EqualValues(t, 9, p.Stats().Live)
		require.NoError(t, p.ResetClients(is("127.0.0.2")))
		require.NoError(t, q.ResetClients(is("127.0.0.2")))
		require.EqualValues(t, 4, p.Stats().Live)
		require.EqualValues(t, 4, q.Stats().Live)
		_, err = gone.Read(make([]byte, 1))
		require.ErrorIs(t, err, unix.ECONNRESET)
		for _, c := range stay {
			roundTrip(t, c, phrase)
		}
		require.NoError(t, p.Close())
		require.ErrorIs(t, p.ResetClients(is("127.0.0.2")), ErrClosed)
		require.NoError(t, q.Close())
	}
}

// What a client sent before its flows end begins none afterwards.
func TestResetClientsThatWait(t *testing.T) {
	noLeak(t)
	g := newGroup(t, &GroupOptions{Loops: 1})
	p, err := New(mustUDP(t, "127.0.0.1:0"), udpEcho(t, "[::1]:0"), &Options{Group: g})
	serve(t, p, err)
	refused, stays := dial(t, "udp", p.FrontendAddr().String()), dial(t, "udp", p.FrontendAddr().String())
	roundTrip(t, refused, phrase)
	u := p.(*udpProxy)
	u.home.with(func() {
		for _, c := range []net.Conn{refused, stays} {
			_, err = c.Write([]byte(phrase))
			require.NoError(t, err)
		}
		u.endFlows(nil)
		asked := 0
		u.refuse(&match{client: true, addr: func(netip.Addr) bool {
			asked++
			return asked == 1 // both are of one address
		}})
	})
	require.EqualValues(t, 1, p.Stats().Dropped)
	require.EqualValues(t, 1, p.Stats().Live)
	require.NoError(t, p.Close())
}
