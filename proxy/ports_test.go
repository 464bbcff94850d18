// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// table is backends that tests change.
type table struct {
	mu sync.Mutex
	to func(netip.AddrPort) netip.AddrPort
}

func (b *table) set(to func(netip.AddrPort) netip.AddrPort) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.to = to
}

func (b *table) of(local netip.AddrPort) netip.AddrPort {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.to(local)
}

// samePort leads to the same port of a host.
func samePort(local netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.9"), local.Port())
}

func nowhere(netip.AddrPort) netip.AddrPort { return netip.AddrPort{} }

func port(of uint16) func(netip.AddrPort) bool {
	return func(local netip.AddrPort) bool { return local.Port() == of }
}

// lookup opens a program for a namespace. False: this machine may not.
func lookup(t *testing.T, path string) (*bpf.Lookup, bool) {
	t.Helper()
	l, err := lookupIn(path)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
		t.Log(err)
		return nil, false
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l, true
}

// ports opens a proxy of ports, to which nothing leads yet.
func ports(t *testing.T, network string, backends Backends, opts *Options) *Ports {
	t.Helper()
	s, err := BindPorts(network, opts)
	require.NoError(t, err)
	p, err := s.Ports(backends, opts)
	require.NoError(t, err)
	serve(t, p, nil)
	return p
}

// The ports that tests lead to a proxy, at 127.0.0.1 and ::1; backends are at 127.0.0.9.
const firstPort, lastPort = 10000, 60000

func lead(t *testing.T, l *bpf.Lookup, p *Ports) {
	t.Helper()
	require.NoError(t, l.Lead(p.Descriptor()))
	proto := uint8(unix.IPPROTO_TCP)
	if p.FrontendAddr().Network() == "udp" {
		proto = unix.IPPROTO_UDP
	}
	for _, a := range []string{"127.0.0.1", "127.0.0.7", "::1"} {
		require.NoError(t, l.Add(bpf.Range{Proto: proto, Addr: netip.MustParseAddr(a), First: firstPort, Last: lastPort}))
	}
}

func TestPortsTCP(t *testing.T) {
	noLeak(t)
	l, ok := lookup(t, ownNetNS)
	if !ok {
		return
	}
	to := table{to: samePort}
	fds := openFDs()
	p := ports(t, "tcp", to.of, &Options{Group: newGroup(t, &GroupOptions{Loops: 2})})
	lead(t, l, p)
	require.Less(t, openFDs(), fds+10, "a range of any width")
	require.Nil(t, p.BackendAddr())
	require.ErrorIs(t, p.SetBackend(mustTCP(t, "127.0.0.9:1")), ErrAddr)
	for _, n := range []int{firstPort, 33333, lastPort} {
		tcpBackend(t, fmt.Sprintf("127.0.0.9:%d", n), echoTCP)
	}
	var conns []net.Conn
	for _, front := range []string{"127.0.0.1:10000", "127.0.0.7:33333", "127.0.0.1:60000", "[::1]:10000", "[::1]:60000"} {
		c := dial(t, "tcp", front)
		roundTrip(t, c, phrase)
		conns = append(conns, c)
	}
	from := net.Dialer{LocalAddr: mustTCP(t, "127.0.0.3:0")}
	bound, err := from.Dial("tcp", "127.0.0.1:33333")
	require.NoError(t, err)
	require.NoError(t, bound.SetDeadline(time.Now().Add(deadline)))
	roundTrip(t, bound, phrase)
	require.NoError(t, bound.Close())

	// No backend listens, and none is known.
	wantReset(t, "127.0.0.1:10001")
	to.set(func(local netip.AddrPort) netip.AddrPort {
		if local.Port() == 33333 {
			return netip.AddrPort{}
		}
		return samePort(local)
	})
	require.NoError(t, p.Changed(port(33333)))
	wantReset(t, "127.0.0.1:33333")
	roundTrip(t, conns[1], "a connection stays")

	// Connections to some ports alone are reset.
	require.NoError(t, p.ResetPorts(func(local netip.AddrPort) bool { return local == netip.MustParseAddrPort("[::1]:10000") }))
	_, err = conns[3].Read(make([]byte, 1))
	require.ErrorIs(t, err, unix.ECONNRESET)
	roundTrip(t, conns[0], phrase)
	require.NoError(t, p.ResetAddr(netip.MustParseAddr("127.0.0.7")))
	_, err = conns[1].Read(make([]byte, 1))
	require.ErrorIs(t, err, unix.ECONNRESET)
	roundTrip(t, conns[4], phrase)
	eventually(t, "counters", func() bool { return p.Stats().Live == 3 })

	// Retired, the proxy takes nothing new, and connections go on.
	require.NoError(t, p.Retire())
	require.Equal(t, -1, p.Descriptor())
	_, err = net.Dial("tcp", "127.0.0.1:10000")
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	roundTrip(t, conns[2], phrase)
	require.NoError(t, p.Close())
	require.ErrorIs(t, p.Changed(port(1)), ErrClosed)
	require.ErrorIs(t, p.ResetPorts(port(1)), ErrClosed)
}

// TestPortsHalfClose: the end of each direction is passed on by itself, and so is a reset.
func TestPortsHalfClose(t *testing.T) {
	noLeak(t)
	served := make(chan *net.TCPConn, 1)
	ended := make(chan struct{})
	backend := tcpBackend(t, "127.0.0.9:0", func(c net.Conn) { served <- c.(*net.TCPConn); <-ended })
	defer close(ended)
	p := ports(t, "tcp", func(netip.AddrPort) netip.AddrPort { return backend.AddrPort() }, nil)
	front := p.FrontendAddr().String()
	c := dial(t, "tcp", front).(*net.TCPConn)
	carries(t, c, <-served, phrase) // its own port is one as well
	c = dial(t, "tcp", front).(*net.TCPConn)
	far := <-served
	require.NoError(t, c.CloseWrite())
	all, err := io.ReadAll(far)
	require.NoError(t, err)
	require.Empty(t, all)
	carries(t, far, c, phrase)
	require.NoError(t, far.SetLinger(0))
	require.NoError(t, far.Close())
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, unix.ECONNRESET)
}

// TestPortsChangedDial: a client that the backend has not answered gets the new one.
func TestPortsChangedDial(t *testing.T) {
	noLeak(t)
	hole, err := Bind(mustTCP(t, "127.0.0.1:0"), nil) // drops every SYN
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, hole.Close()) })
	silent := hole.Addr().(*net.TCPAddr).AddrPort()
	to := table{to: func(netip.AddrPort) netip.AddrPort { return silent }}
	p := ports(t, "tcp", to.of, nil)
	c := dial(t, "tcp", p.FrontendAddr().String())
	eventually(t, "dial", func() bool { return dials(p.Proxy) == 1 })
	require.NoError(t, p.Changed(port(1)))
	require.Equal(t, 1, dials(p.Proxy))
	backend := tcpBackend(t, "127.0.0.9:0", echoTCP).AddrPort()
	to.set(func(netip.AddrPort) netip.AddrPort { return backend })
	require.NoError(t, p.Changed(func(netip.AddrPort) bool { return true }))
	roundTrip(t, c, phrase)
}

func TestPortsUDP(t *testing.T) {
	noLeak(t)
	l, ok := lookup(t, ownNetNS)
	if !ok {
		return
	}
	to := table{to: samePort}
	p := ports(t, "udp", to.of, &Options{Group: newGroup(t, &GroupOptions{Loops: 2})})
	lead(t, l, p)
	for _, n := range []int{firstPort, 33333, lastPort} {
		udpEcho(t, fmt.Sprintf("127.0.0.9:%d", n))
	}
	var conns []net.Conn
	for range 3 { // a connected socket takes answers from the frontend alone
		for _, front := range []string{"127.0.0.1:10000", "127.0.0.7:33333", "127.0.0.1:60000", "[::1]:10000", "[::1]:60000"} {
			c := dial(t, "udp", front)
			for i := range 5 {
				roundTrip(t, c, fmt.Sprint(phrase, i))
			}
			conns = append(conns, c)
		}
	}
	require.EqualValues(t, 15, p.Stats().Total)
	require.EqualValues(t, 15, p.Stats().Live)

	// What answers leave by is no socket that waits for clients: those are "UNCONN".
	out, err := exec.Command("ss", "-Hlun", "sport", ">=", ":10000").CombinedOutput()
	require.NoError(t, err, string(out))
	require.NotContains(t, string(out), "127.0.0.1]:60000")
	require.Contains(t, string(out), "127.0.0.9:33333")

	// Bursts, and long ones.
	for range 50 {
		_, err := io.WriteString(conns[0], phrase)
		require.NoError(t, err)
	}
	for range 50 {
		b := make([]byte, 100)
		n, err := conns[0].Read(b)
		require.NoError(t, err)
		require.Equal(t, phrase, string(b[:n]))
	}
	roundTrip(t, conns[3], strings.Repeat("l", 60000))

	// A client that is bound to a loopback address.
	from := net.Dialer{LocalAddr: mustUDP(t, "127.0.0.3:0")}
	bound, err := from.Dial("udp", "127.0.0.1:33333")
	require.NoError(t, err)
	require.NoError(t, bound.SetDeadline(time.Now().Add(deadline)))
	roundTrip(t, bound, phrase)
	require.NoError(t, bound.Close())

	// Flows of a port that has no backend any more end, and leave the port free.
	to.set(func(local netip.AddrPort) netip.AddrPort {
		if local.Port() == firstPort {
			return netip.AddrPort{}
		}
		return samePort(local)
	})
	require.ErrorIs(t, rudeListen("udp", "127.0.0.1:10000"), unix.EADDRINUSE)
	require.NoError(t, p.Changed(port(firstPort)))
	require.NoError(t, rudeListen("udp", "127.0.0.1:10000"))
	require.EqualValues(t, 10, p.Stats().Live)
	_, err = io.WriteString(conns[0], "lost")
	require.NoError(t, err)
	roundTrip(t, conns[1], phrase)
	eventually(t, "drop", func() bool { return p.Stats().Dropped == 1 })
	require.EqualValues(t, 10, p.Stats().Live)

	// And those of other ports begin again.
	require.NoError(t, p.ResetPorts(port(33333)))
	require.EqualValues(t, 6, p.Stats().Live)
	roundTrip(t, conns[1], phrase)
	require.NoError(t, p.ResetClients(func(a netip.Addr) bool { return a == netip.IPv6Loopback() }))
	require.EqualValues(t, 4, p.Stats().Live)
	require.NoError(t, p.ResetAddr(netip.MustParseAddr("127.0.0.7")))
	require.EqualValues(t, 3, p.Stats().Live)
	roundTrip(t, conns[4], phrase)
}

// TestPortsUDPBounds: flows are bounded, and end after silence.
func TestPortsUDPBounds(t *testing.T) {
	noLeak(t)
	l, ok := lookup(t, ownNetNS)
	if !ok {
		return
	}
	udpEcho(t, "127.0.0.9:33333")
	p := ports(t, "udp", samePort, &Options{MaxFlows: 4})
	lead(t, l, p)
	for range 10 {
		roundTrip(t, dial(t, "udp", "127.0.0.1:33333"), phrase)
	}
	require.EqualValues(t, 4, p.Stats().Live)
	require.EqualValues(t, 6, p.Stats().Evicted)
	require.NoError(t, p.Close())

	p = ports(t, "udp", samePort, &Options{IdleTimeout: 100 * time.Millisecond})
	lead(t, l, p)
	fds := openFDs()
	roundTrip(t, dial(t, "udp", "127.0.0.1:33333"), phrase)
	roundTrip(t, dial(t, "udp", "[::1]:33333"), phrase)
	eventually(t, "silence", func() bool { return p.Stats().Live == 0 })
	require.LessOrEqual(t, openFDs(), fds+2, "those of the clients")
}

// TestPortsLeave: another process takes the ports over, while clients connect and ask as fast as they can.
func TestPortsLeave(t *testing.T) {
	noLeak(t)
	l, ok := lookup(t, ownNetNS)
	if !ok {
		return
	}
	tcpBackend(t, "127.0.0.9:33333", echoTCP)
	udpEcho(t, "127.0.0.9:33333")
	g := NewGroup(nil)
	open := func(network string) *Ports {
		s, err := BindPorts(network, &Options{Group: g})
		require.NoError(t, err)
		p, err := s.Ports(samePort, &Options{Group: g})
		require.NoError(t, err)
		require.NoError(t, p.Open())
		lead(t, l, p)
		return p
	}
	tcp, udp := open("tcp"), open("udp")
	var clients sync.WaitGroup
	over := make(chan struct{})
	for range 2 {
		clients.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-over:
					return
				default:
				}
				if err := askOnce("127.0.0.1:33333"); err != nil {
					t.Error(n, err)
					return
				}
			}
		})
	}
	flow := dial(t, "udp", "127.0.0.1:33333")
	for range 10 {
		next := NewGroup(nil)
		for _, p := range []**Ports{&tcp, &udp} {
			s, err := NewSocket(lend(t, (*p).Descriptor()))
			require.NoError(t, err)
			successor, err := s.Ports(samePort, &Options{Group: next})
			require.NoError(t, err)
			require.NoError(t, successor.Open())
			*p = successor
		}
		roundTrip(t, flow, phrase)
		g.Leave()
		roundTrip(t, dial(t, "udp", "[::1]:33333"), phrase)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_ = g.Shutdown(ctx) // it ends the flows
		cancel()
		g = next
	}
	close(over)
	clients.Wait()
	require.NoError(t, g.Close())
}

// TestPortsHeld: flows bind ports that other programs are kept from.
func TestPortsHeld(t *testing.T) {
	noLeak(t)
	l, ok := lookup(t, ownNetNS)
	if !ok {
		return
	}
	h, err := holdHere()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) }) // after the proxies
	require.NoError(t, h.Add(bpf.Range{Proto: unix.IPPROTO_TCP, First: 1, Last: 65535}))
	require.NoError(t, h.Remove(bpf.Range{Proto: unix.IPPROTO_UDP, Addr: netip.MustParseAddr("0.0.0.0"), First: 33333, Last: 33333}))
	udpEcho(t, "127.0.0.9:33333")
	require.NoError(t, h.Add(bpf.Range{Proto: unix.IPPROTO_UDP, First: 33333, Last: 33333}))
	p := ports(t, "udp", samePort, &Options{BeforeBind: h.Exempt})
	ports(t, "tcp", nowhere, &Options{BeforeBind: h.Exempt})
	lead(t, l, p)
	for _, to := range []string{"127.0.0.1:33333", "[::1]:33333"} {
		require.ErrorIs(t, rudeListen("udp", to), unix.EADDRINUSE)
		roundTrip(t, dial(t, "udp", to), phrase)
		roundTrip(t, dial(t, "udp", to), phrase)
	}
	_, err = BindPorts("tcp", &Options{BeforeBind: func(int) error { return fs.ErrPermission }})
	require.ErrorIs(t, err, fs.ErrPermission)
	_, err = BindPorts("sctp", nil)
	require.ErrorIs(t, err, ErrAddr)
}

// TestPortsFromElsewhere: clients of another namespace, of the other family than the backend, at addresses of the host and at one that
// is routed to it.
func TestPortsFromElsewhere(t *testing.T) {
	noLeak(t)
	labtest.Require(t)
	host, client := labtest.NewNS(t, "host"), labtest.NewNS(t, "client")
	wire := func(a string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(a)} }
	require.NoError(t, lab.Wire(
		lab.End{NS: host, Link: "eth0", Addrs: wire("2001:db8::1/64")}, lab.End{NS: client, Link: "eth0", Addrs: wire("2001:db8::2/64")},
	))
	labtest.Exec(t, host, "ip", "-6", "route", "add", "local", "2001:db8:1::/64", "dev", "lo")
	labtest.Exec(t, client, "ip", "-6", "route", "add", "2001:db8:1::/64", "via", "2001:db8::1")
	l, ok := lookup(t, host.Path())
	if !ok {
		return
	}
	ns, err := os.Open(host.Path())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ns.Close()) })
	g := newGroup(t, &GroupOptions{NetNS: int(ns.Fd())})
	labtest.Exec(t, host, "ip", "addr", "add", "fe80::77/64", "dev", "eth0", "nodad")
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, host, network, "backend", "127.0.0.9:33333")
		p := ports(t, network, samePort, &Options{Group: g})
		require.NoError(t, l.Lead(p.Descriptor()))
		for _, a := range []string{"::"} {
			proto := map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[network]
			require.NoError(t, l.Add(bpf.Range{Proto: proto, Addr: netip.MustParseAddr(a), First: firstPort, Last: lastPort}))
		}
		for _, to := range []string{"[2001:db8::1]:33333", "[2001:db8:1::77]:33333", "[fe80::77%eth0]:33333"} {
			for range 3 {
				labtest.Reaches(t, client, network, to, "backend")
			}
		}
	}
}
