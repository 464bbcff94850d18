// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestResetAddr: the connections and flows end that have the address as a local one,
// also those of a retired proxy, and no others; new ones begin.
func TestResetAddr(t *testing.T) {
	noLeak(t)
	g := newGroup(t, &GroupOptions{Loops: 2})
	tcp, udp := tcpBackend(t, "[::1]:0", echoTCP), udpEcho(t, "[::1]:0")
	for _, c := range []struct{ bind, gone, stays string }{
		{"", "127.0.0.2", "127.0.0.3"}, {"0.0.0.0", "127.0.0.2", "127.0.0.3"}, {"127.0.0.2", "127.0.0.2", ""},
		{"127.0.0.3", "127.0.0.2", "127.0.0.3"},
	} {
		p, err := New(mustTCP(t, net.JoinHostPort(c.bind, "0")), tcp, &Options{Group: g})
		serve(t, p, err)
		former, err := New(mustTCP(t, net.JoinHostPort(c.bind, "0")), tcp, &Options{Group: g})
		serve(t, former, err)
		q, err := New(mustUDP(t, net.JoinHostPort(c.bind, "0")), udp, &Options{Group: g})
		serve(t, q, err)
		var ended, stay []net.Conn
		for range 5 { // on each loop
			for _, f := range []struct {
				network string
				p       Proxy
			}{{"tcp", p}, {"tcp", former}, {"udp", q}} {
				ask := func(host string, to *[]net.Conn) {
					conn := dial(t, f.network, at(host, f.p.FrontendAddr()))
					roundTrip(t, conn, phrase)
					*to = append(*to, conn)
				}
				if c.bind != c.stays || c.bind == "" {
					ask(c.gone, &ended)
				}
				if c.stays != "" {
					ask(c.stays, &stay)
				}
			}
		}
		require.NoError(t, former.Retire())
		live := func() int64 { return p.Stats().Live + former.Stats().Live + q.Stats().Live }
		require.EqualValues(t, len(ended)+len(stay), live())
		g.ResetAddr(netip.MustParseAddr(c.gone))
		require.EqualValues(t, len(stay), live())
		for _, conn := range ended {
			if conn.LocalAddr().Network() == "tcp" {
				_, err := conn.Read(make([]byte, 1))
				require.ErrorIs(t, err, unix.ECONNRESET)
			}
		}
		for _, conn := range stay {
			roundTrip(t, conn, phrase)
		}
		for _, conn := range ended {
			if conn.LocalAddr().Network() == "udp" {
				roundTrip(t, conn, phrase) // by a new flow
			}
		}
		require.NoError(t, p.ResetAddr(netip.MustParseAddr("::1"))) // towards the backend
		require.NoError(t, q.ResetAddr(netip.MustParseAddr("::1")))
		require.Zero(t, p.Stats().Live+q.Stats().Live)
		require.NoError(t, p.Close())
		require.ErrorIs(t, p.ResetAddr(netip.MustParseAddr("::1")), ErrClosed)
		require.NoError(t, former.Close())
		require.NoError(t, q.Close())
	}
}

// TestResetAddrHandedOver: a connection that waits for another loop ends too.
func TestResetAddrHandedOver(t *testing.T) {
	noLeak(t)
	g := newGroup(t, &GroupOptions{Loops: 1})
	p, err := New(mustTCP(t, "127.0.0.1:0"), tcpBackend(t, "127.0.0.1:0", echoTCP), &Options{Group: g})
	serve(t, p, err)
	tp := p.(*tcpProxy)
	shard := tp.shard(tp.home)
	c := dial(t, "tcp", p.FrontendAddr().String())
	roundTrip(t, c, phrase)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(deadline)))
	for _, gone := range []string{"127.0.0.2", "127.0.0.1"} {
		tp.home.with(func() { // as weigh does
			conn := shard.recent.front.item
			if conn == nil {
				return
			}
			conn.moveTo(shard)
			shard.rejectHanded(&match{addr: func(a netip.Addr) bool { return a.String() == gone }})
		})
		if gone == "127.0.0.2" {
			roundTrip(t, c, phrase)
		}
	}
	_, err = c.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, io.EOF)
	require.Zero(t, p.Stats().Live)
}
