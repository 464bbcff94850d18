// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// rudeListen tries to get a port as other processes do, with the socket
// options that share ports.
func rudeListen(network, addr string, options ...int) error {
	if !strings.Contains(addr, "[") {
		network += "4" // else package net takes 0.0.0.0 for both families
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) {
			for _, o := range options {
				err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o, 1))
			}
		}); cerr != nil {
			return cerr
		}
		return err
	}}
	if strings.HasPrefix(network, "udp") {
		pc, err := lc.ListenPacket(context.Background(), network, addr)
		if err == nil {
			_ = pc.Close()
		}
		return err
	}
	l, err := lc.Listen(context.Background(), network, addr)
	if err == nil {
		_ = l.Close()
	}
	return err
}

// TestPortIsHeld: others cannot bind a held port, open or not, at any of its addresses.
func TestPortIsHeld(t *testing.T) {
	noLeak(t)
	for _, c := range []struct {
		held   string
		v6only bool
		taken  []string
		free   []string
	}{
		{held: "127.0.0.1", taken: []string{"127.0.0.1", "0.0.0.0", "::"}, free: []string{"127.0.0.2", "::1"}},
		{held: "::1", taken: []string{"::1", "::"}, free: []string{"127.0.0.1"}},
		{held: "0.0.0.0", taken: []string{"127.0.0.1", "0.0.0.0", "::"}, free: []string{"::1"}},
		{held: "::", taken: []string{"127.0.0.1", "127.0.0.9", "::1", "0.0.0.0", "::"}},
		{held: "", taken: []string{"127.0.0.1", "::1", "0.0.0.0", "::"}},
		{held: "::", v6only: true, taken: []string{"::1"}, free: []string{"127.0.0.1", "0.0.0.0"}},
	} {
		for _, network := range []string{"tcp", "udp"} {
			var frontend, backend net.Addr = mustTCP(t, net.JoinHostPort(c.held, "0")), mustTCP(t, "127.0.0.1:9")
			if network == "udp" {
				frontend, backend = mustUDP(t, net.JoinHostPort(c.held, "0")), mustUDP(t, "127.0.0.1:9")
			}
			s, err := Bind(frontend, &Options{V6Only: c.v6only})
			require.NoError(t, err)
			check := func(when string) {
				for _, options := range [][]int{{}, {unix.SO_REUSEADDR}, {unix.SO_REUSEPORT}, {unix.SO_REUSEADDR, unix.SO_REUSEPORT}} {
					for _, host := range c.taken {
						err := rudeListen(network, at(host, s.Addr()), options...)
						require.ErrorIs(t, err, unix.EADDRINUSE, "%s %q %s: %s got it by %v", network, c.held, when, host, options)
					}
					for _, host := range c.free {
						err := rudeListen(network, at(host, s.Addr()), options...)
						require.NoError(t, err, "%s %q %s: %s", network, c.held, when, host)
					}
				}
				_, port, _ := net.SplitHostPort(s.Addr().String())
				n, _ := strconv.Atoi(port)
				again := frontend
				switch a := again.(type) {
				case *net.TCPAddr:
					again = &net.TCPAddr{IP: a.IP, Port: n}
				case *net.UDPAddr:
					again = &net.UDPAddr{IP: a.IP, Port: n}
				}
				_, err := Bind(again, &Options{V6Only: c.v6only})
				require.ErrorIs(t, err, unix.EADDRINUSE)
			}
			check("held")
			p, err := s.Proxy(backend, nil)
			require.NoError(t, err)
			require.NoError(t, p.Open())
			check("open")
			require.NoError(t, p.Close())
			require.NoError(t, rudeListen(network, at("127.0.0.1", s.Addr())))
			require.NoError(t, s.Close()) // the proxy took it: nothing to close
		}
	}
}

func TestHeldPortAnswersNothing(t *testing.T) {
	noLeak(t)
	backend := tcpBackend(t, "127.0.0.1:0", echoTCP)
	p, err := New(mustTCP(t, "127.0.0.1:0"), backend, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	type result struct {
		c   net.Conn
		err error
	}
	done := make(chan result, 1)
	go func() {
		c, err := net.DialTimeout("tcp", p.FrontendAddr().String(), deadline)
		done <- result{c, err}
	}()
	select {
	case r := <-done:
		require.Fail(t, "a shut port answered", "%v", r.err)
	case <-time.After(200 * time.Millisecond):
	}
	// The client's SYN is sent again after a second (RFC 6298 section 2).
	require.NoError(t, p.Open())
	r := <-done
	require.NoError(t, r.err)
	require.NoError(t, r.c.SetDeadline(time.Now().Add(deadline)))
	roundTrip(t, r.c, phrase)
	require.NoError(t, r.c.Close())

	up, err := New(mustUDP(t, "127.0.0.1:0"), udpEcho(t, "127.0.0.1:0"), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, up.Close()) })
	c := dial(t, "udp", up.FrontendAddr().String())
	_, err = io.WriteString(c, "dropped")
	require.NoError(t, err)
	require.NoError(t, up.Open())
	roundTrip(t, c, phrase) // nothing of what was sent before
	require.EqualValues(t, len(phrase), up.Stats().BytesToBackend)
}

// TestRebindUnderTimeWait: connections in TIME_WAIT, which the proxy ended first, do not
// keep a later proxy from the port.
func TestRebindUnderTimeWait(t *testing.T) {
	backend := tcpBackend(t, "127.0.0.1:0", func(net.Conn) {}) // closes at once
	p, err := New(mustTCP(t, "127.0.0.1:0"), backend, nil)
	require.NoError(t, err)
	require.NoError(t, p.Open())
	front := p.FrontendAddr().String()
	c := dial(t, "tcp", front)
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, c.Close())
	eventually(t, "connection gone", func() bool { return p.Stats().Live == 0 })
	require.NoError(t, p.Close())
	requireTimeWait(t, front)
	p, err = New(mustTCP(t, front), backend, nil)
	require.NoError(t, err)
	require.NoError(t, p.Close())
}

// requireTimeWait requires a connection in TIME_WAIT on a port of 127.0.0.1.
func requireTimeWait(t *testing.T, front string) {
	t.Helper()
	_, port, _ := net.SplitHostPort(front)
	n, err := strconv.ParseUint(port, 10, 16)
	require.NoError(t, err)
	table, err := os.ReadFile("/proc/net/tcp")
	require.NoError(t, err)
	// proc(5): local address, remote address, state; 06 is TIME_WAIT.
	require.Regexp(t, "0100007F:"+strings.ToUpper(strconv.FormatUint(n+1<<16, 16)[1:])+" [0-9A-F:]+ 06 ", string(table))
}

func TestBadAddresses(t *testing.T) {
	noLeak(t)
	good := mustTCP(t, "127.0.0.1:0")
	for name, c := range map[string]struct {
		frontend, backend net.Addr
		want              error
	}{
		"nil frontend":        {nil, mustTCP(t, "127.0.0.1:80"), ErrAddr},
		"typed nil":           {(*net.TCPAddr)(nil), mustTCP(t, "127.0.0.1:80"), ErrAddr},
		"typed nil UDP":       {(*net.UDPAddr)(nil), mustUDP(t, "127.0.0.1:80"), ErrAddr},
		"unix":                {&net.UnixAddr{Name: "x"}, mustTCP(t, "127.0.0.1:80"), ErrAddr},
		"port too big":        {&net.TCPAddr{Port: 65536}, mustTCP(t, "127.0.0.1:80"), ErrAddr},
		"negative port":       {&net.TCPAddr{Port: -1}, mustTCP(t, "127.0.0.1:80"), ErrAddr},
		"short address":       {&net.TCPAddr{IP: net.IP{1, 2, 3}}, mustTCP(t, "127.0.0.1:80"), ErrAddr},
		"not local":           {mustTCP(t, "192.0.2.1:0"), mustTCP(t, "127.0.0.1:80"), unix.EADDRNOTAVAIL},
		"unknown zone":        {mustTCP(t, "[fe80::1%nosuchif]:0"), mustTCP(t, "127.0.0.1:80"), nil},
		"nil backend":         {good, nil, ErrAddr},
		"backend port 0":      {good, mustTCP(t, "127.0.0.1:0"), ErrAddr},
		"backend wildcard":    {good, mustTCP(t, "0.0.0.0:80"), ErrAddr},
		"backend v6 wildcard": {good, mustTCP(t, "[::]:80"), ErrAddr},
		"backend any":         {good, &net.TCPAddr{Port: 80}, ErrAddr},
		"backend multicast":   {good, mustTCP(t, "224.0.0.1:80"), ErrAddr},
		"mixed protocols":     {good, mustUDP(t, "127.0.0.1:80"), ErrAddr},
	} {
		p, err := New(c.frontend, c.backend, nil)
		require.Error(t, err, name)
		require.Nil(t, p, name)
		if c.want != nil {
			require.ErrorIs(t, err, c.want, name)
		}
	}
}

func TestSocketLife(t *testing.T) {
	noLeak(t)
	s, err := Bind(mustTCP(t, "127.0.0.1:0"), nil)
	require.NoError(t, err)
	_, err = s.Proxy(mustUDP(t, "127.0.0.1:80"), nil)
	require.ErrorIs(t, err, ErrAddr)
	g := NewGroup(nil)
	require.NoError(t, g.Close())
	_, err = s.Proxy(mustTCP(t, "127.0.0.1:80"), &Options{Group: g})
	require.ErrorIs(t, err, ErrClosed)
	p, err := s.Proxy(mustTCP(t, "127.0.0.1:80"), nil) // errors left it as it was
	require.NoError(t, err)
	_, err = s.Proxy(mustTCP(t, "127.0.0.1:80"), nil)
	require.ErrorIs(t, err, ErrClosed)
	require.NoError(t, p.Close())
	s, err = Bind(mustTCP(t, s.Addr().String()), nil)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	_, err = s.Proxy(mustTCP(t, "127.0.0.1:80"), nil)
	require.ErrorIs(t, err, ErrClosed)
}

func TestProxyLife(t *testing.T) {
	noLeak(t)
	for _, network := range []string{"tcp", "udp"} {
		t.Run(network, func(t *testing.T) {
			build := func(opts *Options) Proxy {
				var p Proxy
				var err error
				if network == "tcp" {
					p, err = New(mustTCP(t, "127.0.0.1:0"), tcpBackend(t, "127.0.0.1:0", echoTCP), opts)
				} else {
					p, err = New(mustUDP(t, "127.0.0.1:0"), udpEcho(t, "127.0.0.1:0"), opts)
				}
				require.NoError(t, err)
				return p
			}
			try := func(p Proxy) { roundTrip(t, dial(t, network, p.FrontendAddr().String()), phrase) }

			p := build(nil)
			require.NoError(t, p.Close(), "never opened")
			require.ErrorIs(t, p.Open(), ErrClosed)
			require.ErrorIs(t, p.Run(context.Background()), ErrClosed)
			require.NoError(t, p.Shutdown(context.Background()))

			p = build(nil)
			require.NoError(t, p.Open())
			require.NoError(t, p.Open())
			try(p)
			closed := [2]chan error{}
			for i := range closed { // both wait for the end
				closed[i] = goErr(p.Close)
			}
			require.NoError(t, <-closed[0])
			require.NoError(t, <-closed[1])
			require.Zero(t, p.Stats().Live)

			p = build(nil)
			ctx, cancel := context.WithCancel(context.Background())
			ran := goErr(func() error { return p.Run(ctx) })
			eventually(t, "open", func() bool {
				c, err := net.DialTimeout("tcp", p.FrontendAddr().String(), time.Second)
				if err == nil {
					_ = c.Close()
				}
				return err == nil || network == "udp"
			})
			cancel()
			require.NoError(t, <-ran)
			require.ErrorIs(t, p.Open(), ErrClosed)

			p = build(nil)
			ran = goErr(func() error { return p.Run(context.Background()) })
			require.NoError(t, p.Close())
			if err := <-ran; err != nil { // Close came first
				require.ErrorIs(t, err, ErrClosed)
			}

			g := NewGroup(&GroupOptions{Loops: 3})
			open, shut := build(&Options{Group: g}), build(&Options{Group: g})
			require.NoError(t, open.Open())
			try(open)
			require.NoError(t, g.Close())
			require.NoError(t, g.Close())
			require.ErrorIs(t, open.Open(), ErrClosed)
			require.ErrorIs(t, shut.Open(), ErrClosed)
			require.Zero(t, open.Stats().Live)
			_, err := New(mustTCP(t, "127.0.0.1:0"), mustTCP(t, "127.0.0.1:1"), &Options{Group: g})
			require.ErrorIs(t, err, ErrClosed)
		})
	}
}

func goErr(f func() error) chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

// TestReadySockets: sockets of package net become proxies.
func TestReadySockets(t *testing.T) {
	noLeak(t)
	proxyOf := func(c interface {
		syscall.Conn
		io.Closer
	}, backend net.Addr) Proxy {
		raw, err := c.SyscallConn()
		require.NoError(t, err)
		fd := -1
		require.NoError(t, raw.Control(func(theirs uintptr) { fd = lend(t, int(theirs)) }))
		require.NoError(t, c.Close())
		s, err := NewSocket(fd)
		require.NoError(t, err)
		p, err := s.Proxy(backend, nil)
		serve(t, p, err)
		return p
	}
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	l, err := config.Listen(t.Context(), "tcp", "[::1]:0")
	require.NoError(t, err)
	front := l.Addr().String()
	p := proxyOf(l.(*net.TCPListener), tcpBackend(t, "127.0.0.1:0", echoTCP))
	require.Equal(t, front, p.FrontendAddr().String())
	roundTrip(t, dial(t, "tcp", front), phrase)

	pc, err := net.ListenUDP("udp", nil)
	require.NoError(t, err)
	p = proxyOf(pc, udpEcho(t, "[::1]:0"))
	roundTrip(t, dial(t, "udp", at("127.0.0.1", p.FrontendAddr())), phrase)
	roundTrip(t, dial(t, "udp", at("::1", p.FrontendAddr())), phrase)
}

// TestManyProxiesComeAndGo: opening, using and closing from many goroutines on
// one group.
func TestManyProxiesComeAndGo(t *testing.T) {
	noLeak(t)
	g := NewGroup(&GroupOptions{Loops: 3})
	t.Cleanup(func() { require.NoError(t, g.Close()) })
	tcp, udp := tcpBackend(t, "127.0.0.1:0", echoTCP), udpEcho(t, "[::1]:0")
	var workers []chan error
	for range 8 {
		workers = append(workers, goErr(func() error {
			for range 25 {
				for network, backend := range map[string]net.Addr{"tcp": tcp, "udp": udp} {
					var front net.Addr = &net.TCPAddr{}
					if network == "udp" {
						front = &net.UDPAddr{}
					}
					p, err := New(front, backend, &Options{Group: g})
					if err != nil {
						return err
					}
					if err := p.Open(); err != nil {
						return err
					}
					var conns []net.Conn
					for range 4 {
						c, err := net.Dial(network, at("127.0.0.1", p.FrontendAddr()))
						if err != nil {
							return err
						}
						conns = append(conns, c)
						_ = c.SetDeadline(time.Now().Add(deadline))
						if _, err := c.Write([]byte("ping")); err != nil {
							return err
						}
						if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
							return err
						}
					}
					last, err := net.Dial(network, at("127.0.0.1", p.FrontendAddr())) // perhaps still being accepted
					if err != nil {
						return err
					}
					if err := p.Close(); err != nil {
						return err
					}
					if s := p.Stats(); s.Live != 0 {
						return errors.New("live after Close")
					}
					_ = last.Close()
					for _, c := range conns {
						_ = c.Close()
					}
				}
			}
			return nil
		}))
	}
	for _, w := range workers {
		require.NoError(t, <-w)
	}
}

// TestConnectionsSpread: live connections are divided among the loops.
func TestConnectionsSpread(t *testing.T) {
	noLeak(t)
	g := NewGroup(&GroupOptions{Loops: 3})
	t.Cleanup(func() { require.NoError(t, g.Close()) })
	p, err := New(mustTCP(t, "127.0.0.1:0"), tcpBackend(t, "127.0.0.1:0", echoTCP), &Options{Group: g})
	serve(t, p, err)
	for range 30 {
		roundTrip(t, dial(t, "tcp", p.FrontendAddr().String()), phrase)
	}
	loops := g.started()
	require.Len(t, loops, 3)
	for _, l := range loops {
		require.InDelta(t, 10, l.live.Load(), 2)
	}
}
