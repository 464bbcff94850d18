// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// nameTCP is a backend that greets each connection with its name and then echoes.
func nameTCP(tb testing.TB, name string) *net.TCPAddr {
	tb.Helper()
	return tcpBackend(tb, "127.0.0.1:0", func(c net.Conn) {
		if _, err := c.Write([]byte(name)); err == nil {
			echoTCP(c)
		}
	})
}

// expectGreeting reads a greeting of the name's length.
func expectGreeting(tb testing.TB, c net.Conn, name string) {
	tb.Helper()
	buf := make([]byte, len(name))
	_, err := io.ReadFull(c, buf)
	require.NoError(tb, err)
	require.Equal(tb, name, string(buf))
}

// Live connections keep their backend, and new ones get the new one.
func TestSetBackendTCP(t *testing.T) {
	noLeak(t)
	p, err := New(mustTCP(t, "127.0.0.1:0"), nameTCP(t, "one"), nil)
	serve(t, p, err)
	old := dial(t, "tcp", p.FrontendAddr().String())
	expectGreeting(t, old, "one")

	next := nameTCP(t, "two")
	require.NoError(t, p.SetBackend(next))
	require.Equal(t, next.String(), p.BackendAddr().String())
	expectGreeting(t, dial(t, "tcp", p.FrontendAddr().String()), "two")
	roundTrip(t, old, phrase)
}

// dials counts the connections that wait for the backend.
func dials(p Proxy) (n int) {
	tcp := p.(*tcpProxy)
	for i := range tcp.shards {
		if s := tcp.shards[i].Load(); s != nil {
			s.loop.with(func() {
				for c := s.dialing.front; c != nil; c = c.next {
					n++
				}
			})
		}
	}
	return n
}

// A client that waits for the old backend gets the new one, and one that waits for it when
// the proxy is retired is reset.
func TestLeaveBackend(t *testing.T) {
	noLeak(t)
	hole, err := Bind(mustTCP(t, "127.0.0.1:0"), nil) // drops every SYN
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, hole.Close()) })
	g := newGroup(t, &GroupOptions{Loops: 2})
	p, err := New(mustTCP(t, "127.0.0.1:0"), hole.Addr(), &Options{Group: g, DialTimeout: time.Hour})
	serve(t, p, err)
	var waiting []net.Conn
	for range 16 {
		c := dial(t, "tcp", p.FrontendAddr().String())
		_, err := io.WriteString(c, phrase)
		require.NoError(t, err)
		waiting = append(waiting, c)
	}
	eventually(t, "dialing", func() bool { return dials(p) == 16 })
	require.NoError(t, p.SetBackend(tcpBackend(t, "127.0.0.1:0", echoTCP)))
	for _, c := range waiting {
		got := make([]byte, len(phrase))
		_, err := io.ReadFull(c, got)
		require.NoError(t, err)
		require.Equal(t, phrase, string(got))
	}
	require.EqualValues(t, 16, p.Stats().Live)

	require.NoError(t, p.SetBackend(hole.Addr()))
	late := dial(t, "tcp", p.FrontendAddr().String())
	eventually(t, "dialing", func() bool { return dials(p) == 1 })
	require.NoError(t, p.Retire())
	_, err = late.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	roundTrip(t, waiting[0], phrase)
	require.EqualValues(t, 16, p.Stats().Live)
	require.EqualValues(t, 17, p.Stats().Total)
}

// A client that keeps its socket is served by the new backend from its next datagram
// on, and so are others.
func TestSetBackendUDP(t *testing.T) {
	noLeak(t)
	first := udpEcho(t, "127.0.0.1:0")
	p, err := New(mustUDP(t, "127.0.0.1:0"), first, nil)
	serve(t, p, err)
	c := dial(t, "udp", p.FrontendAddr().String())
	roundTrip(t, c, "first")
	require.EqualValues(t, 1, p.Stats().Live)

	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = pc.Close() })
	require.NoError(t, p.SetBackend(pc.LocalAddr()))
	require.EqualValues(t, 0, p.Stats().Live, "the flow to the old backend has ended")
	_, err = c.Write([]byte("second"))
	require.NoError(t, err)
	buf := make([]byte, 16)
	n, _, err := pc.ReadFrom(buf)
	require.NoError(t, err)
	require.Equal(t, "second", string(buf[:n]))

	require.NoError(t, p.SetBackend(first))
	roundTrip(t, dial(t, "udp", p.FrontendAddr().String()), "others")
}

// Reset ends the connections of all loops, and no later ones.
func TestReset(t *testing.T) {
	noLeak(t)
	p, err := New(mustTCP(t, "127.0.0.1:0"), nameTCP(t, "one"), nil)
	require.NoError(t, err)
	require.NoError(t, p.Reset(), "of a proxy that is not open yet")
	serve(t, p, err)
	var old []net.Conn
	for range 16 {
		c := dial(t, "tcp", p.FrontendAddr().String())
		expectGreeting(t, c, "one")
		old = append(old, c)
	}
	require.NoError(t, p.SetBackend(nameTCP(t, "two")))
	require.NoError(t, p.Reset())
	require.Zero(t, p.Stats().Live)
	for _, c := range old {
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
	}
	expectGreeting(t, dial(t, "tcp", p.FrontendAddr().String()), "two")
	require.NoError(t, p.Close())
	require.ErrorIs(t, p.Reset(), ErrClosed)
}

func TestResetUDP(t *testing.T) {
	noLeak(t)
	p, err := New(mustUDP(t, "127.0.0.1:0"), udpEcho(t, "127.0.0.1:0"), nil)
	serve(t, p, err)
	c := dial(t, "udp", p.FrontendAddr().String())
	roundTrip(t, c, "first")
	require.NoError(t, p.Reset())
	require.Zero(t, p.Stats().Live)
	roundTrip(t, c, "second")
	require.EqualValues(t, 2, p.Stats().Total)
}

func TestSetBackendRefused(t *testing.T) {
	noLeak(t)
	p, err := New(mustTCP(t, "127.0.0.1:0"), mustTCP(t, "127.0.0.1:9"), nil)
	require.NoError(t, err)
	require.ErrorIs(t, p.SetBackend(mustUDP(t, "127.0.0.1:9")), ErrAddr)
	require.ErrorIs(t, p.SetBackend(&net.TCPAddr{Port: 80}), ErrAddr)
	require.Equal(t, "127.0.0.1:9", p.BackendAddr().String())
	require.NoError(t, p.Close())
	require.ErrorIs(t, p.SetBackend(mustTCP(t, "127.0.0.1:9")), ErrClosed)
}
