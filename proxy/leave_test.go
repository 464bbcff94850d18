// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// lend duplicates a descriptor, as passing it to another process does.
func lend(tb testing.TB, fd int) int {
	tb.Helper()
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	require.NoError(tb, err)
	return n
}

// successor makes a proxy of another group's frontend in a group, not open yet.
func successor(tb testing.TB, p Proxy, g *Group) Proxy {
	tb.Helper()
	s, err := NewSocket(lend(tb, p.Descriptor()))
	require.NoError(tb, err)
	require.Equal(tb, p.FrontendAddr(), s.Addr())
	next, err := s.Proxy(p.BackendAddr(), &Options{Group: g})
	require.NoError(tb, err)
	return next
}

// TestLeaveTCP: one group after another takes a frontend over, while clients connect as
// fast as they can: none is refused, none reset, and each is answered.
func TestLeaveTCP(t *testing.T) {
	noLeak(t)
	g := NewGroup(nil)
	p, err := New(mustTCP(t, "127.0.0.1:0"), tcpBackend(t, "127.0.0.1:0", echoTCP), &Options{Group: g})
	require.NoError(t, err)
	require.NoError(t, p.Open())
	front := p.FrontendAddr().String()
	over := make(chan struct{})
	var clients sync.WaitGroup
	var asked [4]int
	for i := range asked {
		clients.Go(func() {
			for ; ; asked[i]++ {
				select {
				case <-over:
					return
				default:
				}
				if err := askOnce(front); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 50 {
		next := NewGroup(nil)
		successor := successor(t, p, next)
		require.NoError(t, successor.Open())
		g.Leave()
		require.Equal(t, -1, p.Descriptor())
		require.ErrorIs(t, rudeListen("tcp", front, unix.SO_REUSEADDR), unix.EADDRINUSE)
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		require.NoError(t, g.Shutdown(ctx))
		cancel()
		g, p = next, successor
	}
	close(over)
	clients.Wait()
	for _, n := range asked {
		require.NotZero(t, n)
	}
	require.NoError(t, g.Close())
}

func askOnce(front string) error {
	c, err := net.DialTimeout("tcp", front, deadline)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, phrase); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, len(phrase)))
	return err
}

// TestLeaveKeepsConnections: connections of the group go on, and those in the queue are
// left to the successor.
func TestLeaveKeepsConnections(t *testing.T) {
	noLeak(t)
	g, next := NewGroup(nil), newGroup(t, nil)
	pair := newTCPPair(t, &Options{Group: g})
	successor := successor(t, pair.proxy, next)
	g.Leave()
	waits := dial(t, "tcp", pair.proxy.FrontendAddr().String())
	require.EqualValues(t, 1, pair.proxy.Stats().Live, "it is not the old one's")
	pair.exchange(t)
	require.NoError(t, successor.SetBackend(tcpBackend(t, "127.0.0.1:0", echoTCP)))
	require.NoError(t, successor.Open())
	roundTrip(t, waits, phrase)

	drained := goErr(func() error { return g.Shutdown(context.Background()) })
	require.NoError(t, pair.client.Close())
	require.NoError(t, pair.backend.Close())
	require.NoError(t, <-drained)
	require.NoError(t, successor.Close())
}

// TestLeaveTakesTheQueue: a group whose loops shared a listener serves the connections in
// the queue when it leaves, which may have woken it, and no later ones.
func TestLeaveTakesTheQueue(t *testing.T) {
	noLeak(t)
	g := NewGroup(&GroupOptions{Loops: 1})
	p, err := New(mustTCP(t, "127.0.0.1:0"), tcpBackend(t, "127.0.0.1:0", echoTCP), &Options{Group: g})
	require.NoError(t, err)
	require.NoError(t, p.Open())
	front, tp := p.FrontendAddr().String(), p.(*tcpProxy)
	other := lend(t, p.Descriptor())
	const first, waiting, late = 10, 500, 10 // more than are accepted in one turn
	var clients []net.Conn
	came := make(chan struct{})
	tp.home.with(func() {
		tp.shard(tp.home).share()
		for range waiting {
			clients = append(clients, dial(t, "tcp", front))
		}
		require.Equal(t, waiting, queued(tp.fd))
		tp.shard(tp.home).acceptUpTo(first)
		require.Equal(t, waiting-first, queued(tp.fd))
		require.EqualValues(t, first, p.Stats().Total)
		go func() {
			defer close(came)
			for end := time.Now().Add(deadline); p.Stats().Total == first && time.Now().Before(end); {
				runtime.Gosched() // it has not begun to take them
			}
			for range late {
				c, err := net.Dial("tcp", front)
				if err != nil {
					t.Error(err)
					return
				}
				clients = append(clients, c)
			}
		}()
		tp.shared = true // as Leave has it
		tp.stopAccepting(true)
	})
	<-came
	g.Leave()
	for _, c := range clients[:waiting] {
		roundTrip(t, c, phrase)
	}
	require.Equal(t, late, queued(other))
	require.EqualValues(t, waiting, p.Stats().Total)
	for _, c := range clients {
		require.NoError(t, c.Close())
	}
	closeFD(other)
	require.NoError(t, g.Shutdown(t.Context()))
}

// TestLeaveUDP: one of the two processes gets each datagram, and answers under way when a
// proxy leaves arrive.
func TestLeaveUDP(t *testing.T) {
	noLeak(t)
	backend, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer func() { require.NoError(t, backend.Close()) }()
	require.NoError(t, backend.SetDeadline(time.Now().Add(deadline)))
	g, next := NewGroup(nil), newGroup(t, nil)
	p, err := New(mustUDP(t, "127.0.0.1:0"), backend.LocalAddr(), &Options{Group: g})
	require.NoError(t, err)
	require.NoError(t, p.Open())
	client := dial(t, "udp", p.FrontendAddr().String())
	ask := func() *net.UDPAddr {
		_, err := io.WriteString(client, phrase)
		require.NoError(t, err)
		_, from, err := backend.ReadFromUDP(make([]byte, 100))
		require.NoError(t, err)
		return from
	}
	first := ask()
	successor := successor(t, p, next)
	g.Leave()
	_, err = io.WriteString(client, phrase) // nobody reads it yet
	require.NoError(t, err)
	require.NoError(t, successor.Open())
	_, second, err := backend.ReadFromUDP(make([]byte, 100))
	require.NoError(t, err)
	require.NotEqual(t, first, second, "it is the successor's flow")
	for _, to := range []*net.UDPAddr{first, second} {
		_, err = backend.WriteToUDP([]byte(phrase), to)
		require.NoError(t, err)
		n, err := client.Read(make([]byte, 100))
		require.NoError(t, err)
		require.Equal(t, len(phrase), n)
	}
	require.NoError(t, g.Shutdown(context.Background()))
	require.Equal(t, second, ask())
	require.NoError(t, successor.Close())
}

// TestLeaveUDPEnds: a backend that keeps sending does not keep a proxy that has left.
func TestLeaveUDPEnds(t *testing.T) {
	noLeak(t)
	backend, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	g := NewGroup(nil)
	g.answering = 50 * time.Millisecond
	p, err := New(mustUDP(t, "127.0.0.1:0"), backend.LocalAddr(), &Options{Group: g})
	require.NoError(t, err)
	require.NoError(t, p.Open())
	client := dial(t, "udp", p.FrontendAddr().String())
	_, err = io.WriteString(client, phrase)
	require.NoError(t, err)
	_, flow, err := backend.ReadFromUDP(make([]byte, 100))
	require.NoError(t, err)
	sent := goErr(func() error {
		for err := error(nil); err == nil; time.Sleep(time.Millisecond) {
			_, err = backend.WriteToUDP([]byte(phrase), flow)
		}
		return nil
	})
	g.Leave()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	require.NoError(t, g.Shutdown(ctx))
	require.NoError(t, backend.Close())
	require.NoError(t, <-sent)
}

// TestNewSocket: the socket is as the process that lends it left it.
func TestNewSocket(t *testing.T) {
	noLeak(t)
	backend := tcpBackend(t, "127.0.0.1:0", echoTCP)
	for _, refuses := range []bool{true, false} {
		held, err := Bind(mustTCP(t, "127.0.0.1:0"), nil)
		require.NoError(t, err)
		if refuses {
			require.NoError(t, held.Refuse())
		}
		s, err := NewSocket(lend(t, held.Descriptor()))
		require.NoError(t, err)
		require.Equal(t, refuses, s.refusing)
		require.True(t, s.filtered)
		require.NoError(t, held.Close())
		require.Equal(t, -1, held.Descriptor())
		require.ErrorIs(t, rudeListen("tcp", s.Addr().String(), unix.SO_REUSEADDR), unix.EADDRINUSE)
		if refuses {
			_, err := net.Dial("tcp", s.Addr().String())
			require.ErrorIs(t, err, unix.ECONNREFUSED)
		}
		p, err := s.Proxy(backend, nil)
		serve(t, p, err)
		roundTrip(t, dial(t, "tcp", p.FrontendAddr().String()), phrase)
	}
	// One that a proxy has served receives packets until Refuse.
	p, err := New(mustUDP(t, "127.0.0.1:0"), udpEcho(t, "127.0.0.1:0"), nil)
	serve(t, p, err)
	s, err := NewSocket(lend(t, p.Descriptor()))
	require.NoError(t, err)
	require.False(t, s.filtered)
	c := dial(t, "udp", p.FrontendAddr().String())
	roundTrip(t, c, phrase)
	require.NoError(t, s.Refuse())
	require.True(t, s.filtered)
	_, err = io.WriteString(c, phrase)
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, s.Close())
}

// TestNewSocketRefuses: a descriptor that no frontend could have stays the caller's.
func TestNewSocketRefuses(t *testing.T) {
	noLeak(t)
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	fds := []int{null}
	for _, s := range [][3]int{
		{unix.AF_UNIX, unix.SOCK_STREAM | unix.SOCK_NONBLOCK, 0}, {unix.AF_INET, unix.SOCK_DGRAM, 0},
		{unix.AF_INET, unix.SOCK_DGRAM | unix.SOCK_NONBLOCK, 0}, {unix.AF_INET6, unix.SOCK_STREAM | unix.SOCK_NONBLOCK, 0},
		{unix.AF_NETLINK, unix.SOCK_RAW | unix.SOCK_NONBLOCK, 0},
	} {
		fd, err := unix.Socket(s[0], s[1]|unix.SOCK_CLOEXEC, s[2])
		require.NoError(t, err)
		fds = append(fds, fd)
	}
	for _, fd := range fds {
		_, err := NewSocket(fd)
		require.Error(t, err)
		require.NoError(t, unix.Close(fd))
	}
	_, err = NewSocket(-1)
	require.ErrorIs(t, err, unix.EBADF)
}
