// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// newGroup makes a group for the test's time.
func newGroup(tb testing.TB, opts *GroupOptions) *Group {
	tb.Helper()
	g := NewGroup(opts)
	tb.Cleanup(func() { require.NoError(tb, g.Close()) })
	return g
}

// TestRetire: the port is free when Retire returns; connections go on until they end,
// and are counted.
func TestRetire(t *testing.T) {
	noLeak(t)
	g := newGroup(t, nil)
	pair := newTCPPair(t, &Options{Group: g})
	front := pair.proxy.FrontendAddr().String()
	fds := openFDs()
	require.NoError(t, pair.proxy.Retire())
	require.NoError(t, pair.proxy.Retire())
	require.Equal(t, fds-1, openFDs(), "the listener has gone")
	require.ErrorIs(t, pair.proxy.Open(), ErrClosed)

	_, err := net.Dial("tcp", front)
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	next, err := net.Listen("tcp", front) // with SO_REUSEADDR
	require.NoError(t, err)
	require.NoError(t, next.Close())
	successor, err := New(mustTCP(t, front), nameTCP(t, "two"), &Options{Group: g})
	serve(t, successor, err)
	expectGreeting(t, dial(t, "tcp", front), "two")

	require.EqualValues(t, 1, g.Former().Live)
	pair.exchange(t)
	require.NoError(t, pair.client.CloseWrite())
	_, err = pair.backend.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, pair.backend.Close())
	_, err = pair.client.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	eventually(t, "only the successor is left", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.members) == 1 && !slices.Contains(slices.Collect(maps.Values(g.members)), true)
	})
	require.Equal(t, Stats{Total: 1, BytesToBackend: uint64(len(phrase)), BytesToClient: uint64(len(phrase))}, g.Former())
	require.NoError(t, pair.proxy.Close())
	require.EqualValues(t, 1, g.Former().Total, "counted once")
}

// TestFilterIsNotInherited: a connection that has a copy of the listener's filter receives
// data all the same.
func TestFilterIsNotInherited(t *testing.T) {
	noLeak(t)
	g := newGroup(t, &GroupOptions{Loops: 1})
	p, err := New(mustTCP(t, "127.0.0.1:0"), tcpBackend(t, "127.0.0.1:0", echoTCP), &Options{Group: g})
	serve(t, p, err)
	tp := p.(*tcpProxy)
	var c net.Conn
	tp.home.with(func() {
		c = dial(t, "tcp", p.FrontendAddr().String())
		fd, e := accept4(tp.fd)
		require.Equal(t, noErrno, e)
		require.NoError(t, attachDropAll(fd))
		tp.leaving = true // as in stopAccepting
		require.Equal(t, noErrno, tp.shard(tp.home).assign(fd))
	})
	roundTrip(t, c, phrase)
	require.NoError(t, c.Close())
}

// TestRetireIdle: a proxy without connections leaves nothing behind, in any state.
func TestRetireIdle(t *testing.T) {
	noLeak(t)
	g := newGroup(t, nil)
	for _, network := range []string{"tcp", "udp"} {
		for _, opened := range []bool{true, false} {
			var frontend, backend net.Addr = mustTCP(t, "127.0.0.1:0"), mustTCP(t, "127.0.0.1:9")
			if network == "udp" {
				frontend, backend = mustUDP(t, "127.0.0.1:0"), mustUDP(t, "127.0.0.1:9")
			}
			p, err := New(frontend, backend, &Options{Group: g})
			require.NoError(t, err)
			if opened {
				require.NoError(t, p.Open())
			}
			require.NoError(t, p.Retire())
			require.NoError(t, rudeListen(network, p.FrontendAddr().String()))
			require.NoError(t, p.Retire())
			require.NoError(t, p.Shutdown(context.Background()))
			require.NoError(t, p.Retire())
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	require.Empty(t, g.members)
}

// TestRetireUDP: flows end at once.
func TestRetireUDP(t *testing.T) {
	noLeak(t)
	g := newGroup(t, nil)
	p, err := New(mustUDP(t, "127.0.0.1:0"), udpEcho(t, "127.0.0.1:0"), &Options{Group: g})
	require.NoError(t, err)
	require.NoError(t, p.Open())
	c := dial(t, "udp", p.FrontendAddr().String())
	roundTrip(t, c, phrase)
	require.NoError(t, p.Retire())
	require.Zero(t, p.Stats().Live)
	require.Equal(t, Stats{Total: 1, BytesToBackend: uint64(len(phrase)), BytesToClient: uint64(len(phrase))}, g.Former())
	_, err = io.WriteString(c, phrase)
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, unix.ECONNREFUSED)
}

// TestRetireTakesTheQueue: connections in the queue are served, also if the group's
// sockets are of another namespace than the caller's thread.
func TestRetireTakesTheQueue(t *testing.T) {
	noLeak(t)
	inNetNS(t, 65536, func(ns int) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer func() { _ = l.Close() }()
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() { echoTCP(c); _ = c.Close() })
			}
		})
		g := NewGroup(&GroupOptions{NetNS: ns, Loops: 2})
		defer func() { require.NoError(t, g.Close()) }()
		p, err := New(mustTCP(t, "127.0.0.1:0"), l.Addr(), &Options{Group: g})
		require.NoError(t, err)
		require.NoError(t, p.Open())
		const waiting = 100
		conns := make([]net.Conn, waiting)
		// While the loop cannot accept.
		home := g.started()[0]
		home.turn.Lock()
		for i := range conns {
			conns[i], err = net.Dial("tcp", p.FrontendAddr().String())
			if err != nil {
				break
			}
		}
		retired := goErr(p.Retire) // on another thread; it waits for the loop's turn
		home.turn.Unlock()
		require.NoError(t, err)
		require.NoError(t, <-retired)
		_, err = net.Dial("tcp", p.FrontendAddr().String())
		require.ErrorIs(t, err, unix.ECONNREFUSED)
		for _, c := range conns {
			require.NoError(t, c.SetDeadline(time.Now().Add(deadline)))
			roundTrip(t, c, phrase)
		}
		require.EqualValues(t, waiting, g.Former().Live)
		for _, c := range conns {
			require.NoError(t, c.Close())
		}
		eventually(t, "all gone", func() bool { return g.Former().Live == 0 })
	})
}

// TestRetiredIsEnded: connections of a retired proxy end when it or the group is closed,
// or when the context of a Shutdown of either is done.
func TestRetiredIsEnded(t *testing.T) {
	noLeak(t)
	over, cancel := context.WithCancel(context.Background())
	cancel()
	for name, end := range map[string]func(*Group, Proxy) error{
		"close":       func(_ *Group, p Proxy) error { return p.Close() },
		"group":       func(g *Group, _ Proxy) error { return g.Close() },
		"shutdown":    func(_ *Group, p Proxy) error { return p.Shutdown(over) },
		"group drain": func(g *Group, _ Proxy) error { return g.Shutdown(over) },
	} {
		for _, own := range []bool{true, false} {
			g := newGroup(t, nil)
			opts := &Options{Group: g}
			if own {
				opts.Group = nil
			}
			pair := newTCPPair(t, opts)
			require.NoError(t, pair.proxy.Retire())
			if own && name != "close" && name != "shutdown" {
				require.NoError(t, pair.proxy.Close())
				continue
			}
			if err := end(g, pair.proxy); err != nil {
				require.ErrorIs(t, err, context.Canceled, name)
			}
			_, err := pair.client.Read(make([]byte, 1))
			require.ErrorIs(t, err, unix.ECONNRESET, name)
			require.Zero(t, pair.proxy.Stats().Live)
			require.Zero(t, g.Former().Live)
		}
	}
}

// TestGroupShutdown waits for the connections of all proxies, retired or not.
func TestGroupShutdown(t *testing.T) {
	noLeak(t)
	g := newGroup(t, nil)
	retired, open := newTCPPair(t, &Options{Group: g}), newTCPPair(t, &Options{Group: g})
	require.NoError(t, retired.proxy.Retire())
	done := goErr(func() error { return g.Shutdown(context.Background()) })
	eventually(t, "new connections refused", func() bool {
		c, err := net.Dial("tcp", open.proxy.FrontendAddr().String())
		if err == nil {
			_ = c.(*net.TCPConn).SetLinger(0) // it must not live on
			_ = c.Close()
		}
		return errors.Is(err, unix.ECONNREFUSED)
	})
	for _, pair := range []*tcpPair{retired, open} {
		_, err := io.WriteString(pair.client, "x")
		require.NoError(t, err)
		_, err = io.ReadFull(pair.backend, make([]byte, 1))
		require.NoError(t, err)
		require.Empty(t, done)
		require.NoError(t, pair.client.Close())
		require.NoError(t, pair.backend.Close())
	}
	require.NoError(t, <-done)
	require.NoError(t, g.Shutdown(context.Background()), "nothing left to do")
}

// TestRetireWhileServing: proxies retire again and again while clients connect. Each
// connection is served to its end and counted.
func TestRetireWhileServing(t *testing.T) {
	noLeak(t)
	g := newGroup(t, &GroupOptions{Loops: 2})
	backend := tcpBackend(t, "127.0.0.1:0", echoTCP)
	p, err := New(mustTCP(t, "127.0.0.1:0"), backend, &Options{Group: g})
	require.NoError(t, err)
	front := p.FrontendAddr().String()
	require.NoError(t, p.Open())
	var wg sync.WaitGroup
	stop := make(chan struct{})
	served := make(chan int, 4)
	for range cap(served) {
		wg.Go(func() {
			n := 0
			defer func() { served <- n }()
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := net.Dial("tcp", front)
				if err != nil {
					continue // refused between two proxies
				}
				buf := []byte("x")
				_, err = c.Write(buf)
				if err == nil {
					_, err = io.ReadFull(c, buf)
				}
				if err == nil {
					n++
				}
				_ = c.(*net.TCPConn).SetLinger(0)
				_ = c.Close()
			}
		})
	}
	for range 100 {
		next, total := p, g.Former().Total
		eventually(t, "a client", func() bool { return next.Stats().Total > 0 })
		require.NoError(t, p.Retire())
		require.GreaterOrEqual(t, g.Former().Total, total+p.Stats().Total)
		p, err = New(mustTCP(t, front), backend, &Options{Group: g})
		require.NoError(t, err)
		require.NoError(t, p.Open())
	}
	close(stop)
	wg.Wait()
	require.NoError(t, p.Retire())
	eventually(t, "all gone", func() bool { return g.Former().Live == 0 })
	n := 0
	for range cap(served) {
		n += <-served
	}
	require.GreaterOrEqual(t, g.Former().Total, uint64(n))
	require.Zero(t, g.Former().RefusedDials)
	g.mu.Lock()
	defer g.mu.Unlock()
	require.Empty(t, g.members)
}
