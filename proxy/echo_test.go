// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const phrase = "Buffalo buffalo Buffalo buffalo buffalo buffalo Buffalo buffalo"

// tcpBackend serves each connection with f until the test ends.
func tcpBackend(tb testing.TB, addr string, f func(net.Conn)) *net.TCPAddr {
	tb.Helper()
	l, err := net.Listen("tcp", addr)
	require.NoError(tb, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				f(c)
				_ = c.Close()
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
			})
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().(*net.TCPAddr)
}

// echoTCP does not io.Copy, which would hold a pipe for each connection.
func echoTCP(c net.Conn) {
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

// udpEcho answers datagrams with themselves until the test ends.
func udpEcho(tb testing.TB, addr string) *net.UDPAddr {
	tb.Helper()
	pc, err := net.ListenPacket("udp", addr)
	require.NoError(tb, err)
	var wg sync.WaitGroup
	wg.Go(func() { echoUDP(pc) })
	tb.Cleanup(func() { _ = pc.Close(); wg.Wait() })
	return pc.LocalAddr().(*net.UDPAddr)
}

func echoUDP(pc net.PacketConn) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = pc.WriteTo(buf[:n], from)
	}
}

// dial connects for the test's time, with a deadline on everything.
func dial(tb testing.TB, network, addr string) net.Conn {
	tb.Helper()
	c, err := net.DialTimeout(network, addr, deadline)
	require.NoError(tb, err)
	require.NoError(tb, c.SetDeadline(time.Now().Add(deadline)))
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// roundTrip sends a message to an echo and reads it back.
func roundTrip(tb testing.TB, c net.Conn, msg string) {
	tb.Helper()
	carries(tb, c, c, msg)
}

// carries checks that what is written to one connection arrives at another.
func carries(tb testing.TB, in io.Writer, out io.Reader, msg string) {
	tb.Helper()
	_, err := io.WriteString(in, msg)
	require.NoError(tb, err)
	got := make([]byte, len(msg))
	_, err = io.ReadFull(out, got)
	require.NoError(tb, err)
	require.Equal(tb, msg, string(got))
}

func at(host string, a net.Addr) string {
	_, port, _ := net.SplitHostPort(a.String())
	return net.JoinHostPort(host, port)
}

func TestEchoEveryCombination(t *testing.T) {
	noLeak(t)
	g := NewGroup(&GroupOptions{Loops: 2})
	t.Cleanup(func() { require.NoError(t, g.Close()) })
	for _, network := range []string{"tcp", "udp"} {
		for _, front := range []struct{ bind, ask string }{
			{"127.0.0.1", "127.0.0.1"}, {"::1", "::1"}, {"0.0.0.0", "127.0.0.1"},
			{"", "127.0.0.1"}, {"", "::1"}, {"::", "127.0.0.1"}, {"::", "::1"},
		} {
			for _, back := range []string{"127.0.0.1", "::1"} {
				for _, shared := range []bool{true, false} {
					name := strings.Join([]string{network, front.bind, front.ask, back, strconv.FormatBool(shared)}, " ")
					t.Run(name, func(t *testing.T) {
						opts := &Options{}
						if shared {
							opts.Group = g
						}
						var backend net.Addr
						var frontend net.Addr
						if network == "tcp" {
							backend = tcpBackend(t, net.JoinHostPort(back, "0"), echoTCP)
							frontend = mustTCP(t, net.JoinHostPort(front.bind, "0"))
						} else {
							backend = udpEcho(t, net.JoinHostPort(back, "0"))
							frontend = mustUDP(t, net.JoinHostPort(front.bind, "0"))
						}
						p, err := New(frontend, backend, opts)
						serve(t, p, err)
						require.Equal(t, backend.String(), p.BackendAddr().String())
						c := dial(t, network, at(front.ask, p.FrontendAddr()))
						roundTrip(t, c, phrase)
						roundTrip(t, c, phrase)
						eventually(t, "counters", func() bool {
							s := p.Stats()
							return s.Live == 1 && s.Total == 1 && s.BytesToBackend == 2*uint64(len(phrase)) && s.BytesToClient == s.BytesToBackend
						})
					})
				}
			}
		}
	}
}
