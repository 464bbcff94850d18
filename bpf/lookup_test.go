// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// openLookup opens a Lookup of a namespace. False: this machine may not.
func openLookup(t *testing.T, ns *lab.NS) (*Lookup, bool) {
	t.Helper()
	f, err := os.Open(ns.Path())
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	l, err := OpenLookup(int(f.Fd()))
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
		t.Log(err) // a user namespace
		return nil, false
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l, true
}

// option is a level, a name and a value.
type option [3]int

func control(options []option) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) {
			for _, o := range options {
				err = errors.Join(err, unix.SetsockoptInt(int(fd), o[0], o[1], o[2]))
			}
		}), err)
	}
}

// listener listens in a namespace, not for MPTCP.
func listener(t *testing.T, ns *lab.NS, addr string, options ...option) (l *net.TCPListener) {
	t.Helper()
	require.NoError(t, ns.Do(func() error {
		config := net.ListenConfig{Control: control(options)}
		config.SetMultipathTCP(false)
		opened, err := config.Listen(context.Background(), "tcp", addr)
		if err == nil {
			l = opened.(*net.TCPListener)
		}
		return err
	}))
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func packets(t *testing.T, ns *lab.NS, network, addr string) (c *net.UDPConn) {
	t.Helper()
	require.NoError(t, ns.Do(func() error {
		opened, err := net.ListenPacket(network, addr)
		if err == nil {
			c = opened.(*net.UDPConn)
		}
		return err
	}))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func lead(t *testing.T, l *Lookup, s syscall.Conn) (err error) {
	t.Helper()
	raw, rerr := s.SyscallConn()
	require.NoError(t, rerr)
	require.NoError(t, raw.Control(func(fd uintptr) { err = l.Lead(int(fd)) }))
	return err
}

// ours opens the socket of a Lookup: of IPv6, for both families, bound to 127.0.0.1, from where alone its own port is reached.
func ours(t *testing.T, ns *lab.NS, kind int) *os.File {
	t.Helper()
	var f *os.File
	require.NoError(t, ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), "ours")
		err = errors.Join(unix.SetsockoptInt(fd, both[0], both[1], both[2]), unix.Bind(fd, &unix.SockaddrInet6{Addr: netip.MustParseAddr("::ffff:127.0.0.1").As16()}))
		if kind == unix.SOCK_STREAM {
			err = errors.Join(err, unix.Listen(fd, 16))
		}
		return err
	}))
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func ourListener(t *testing.T, ns *lab.NS) *net.TCPListener {
	t.Helper()
	l, err := net.FileListener(ours(t, ns, unix.SOCK_STREAM))
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l.(*net.TCPListener)
}

func ourPackets(t *testing.T, ns *lab.NS) *net.UDPConn {
	t.Helper()
	c, err := net.FilePacketConn(ours(t, ns, unix.SOCK_DGRAM))
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.UDPConn)
}

// connect connects in a namespace, and returns the address at which a listener gets it.
func connect(t *testing.T, ns *lab.NS, to string, at *net.TCPListener) netip.AddrPort {
	t.Helper()
	var c net.Conn
	require.NoError(t, ns.Do(func() (err error) {
		var dialer net.Dialer
		dialer.SetMultipathTCP(false)
		c, err = dialer.Dial("tcp", to)
		return err
	}), to)
	defer func() { require.NoError(t, c.Close()) }()
	require.NoError(t, at.SetDeadline(time.Now().Add(labtest.Stretch(5*time.Second))))
	accepted, err := at.AcceptTCP()
	require.NoError(t, err, to)
	defer func() { require.NoError(t, accepted.Close()) }()
	local := accepted.LocalAddr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
}

// read reads a datagram; empty: there is none in time.
func read(t *testing.T, c *net.UDPConn, wait time.Duration) string {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(wait)))
	b := make([]byte, 64)
	n, err := c.Read(b)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		require.NoError(t, err)
	}
	return string(b[:n])
}

func say(t *testing.T, ns *lab.NS, to, what string) {
	t.Helper()
	c, err := ns.Dial(context.Background(), "udp", to)
	require.NoError(t, err)
	_, err = c.Write([]byte(what))
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

var (
	only  = option{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1}
	both  = option{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0}
	reuse = option{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1}
)

func loopback(t *testing.T) *lab.NS {
	t.Helper()
	ns := labtest.NewNS(t, "host")
	labtest.Exec(t, ns, "ip", "link", "set", "lo", "up")
	labtest.Exec(t, ns, "ip", "addr", "add", "192.0.2.1/32", "dev", "lo")
	labtest.Exec(t, ns, "ip", "addr", "add", "2001:db8::1/128", "dev", "lo", "nodad")
	require.Eventually(t, func() bool { // its route to here comes later than that to lo
		_, err := ns.Dial(context.Background(), "tcp", "[2001:db8::1]:9")
		return errors.Is(err, unix.ECONNREFUSED)
	}, labtest.Stretch(late), time.Millisecond)
	return ns
}

const (
	soon = 50 * time.Millisecond
	late = 5 * time.Second
)

func TestLookupTCP(t *testing.T) {
	labtest.LeakCheck(t)
	ns := loopback(t)
	l, ok := openLookup(t, ns)
	if !ok {
		return
	}
	require.NoError(t, l.Add(Range{Proto: unix.IPPROTO_TCP, First: 10000, Last: 60000}))
	ours := ourListener(t, ns)
	require.NoError(t, lead(t, l, ours))
	for _, to := range []string{"127.0.0.1:10000", "127.0.0.7:33333", "192.0.2.1:60000", "[::1]:60000", "[2001:db8::1]:10001"} {
		require.Equal(t, to, connect(t, ns, to, ours).String())
	}

	// A listener of another program is not asked, unless its port is left out.
	other := listener(t, ns, "127.0.0.1:20000")
	require.Equal(t, "127.0.0.1:20000", connect(t, ns, "127.0.0.1:20000", ours).String())
	require.NoError(t, l.Remove(Range{Proto: unix.IPPROTO_TCP, Addr: netip.IPv4Unspecified(), First: 20000, Last: 20000}))
	require.Equal(t, "127.0.0.1:20000", connect(t, ns, "127.0.0.1:20000", other).String())
	require.Equal(t, "[::1]:20000", connect(t, ns, "[::1]:20000", ours).String())

	// One address alone, and a port outside.
	require.NoError(t, l.Replace([]Range{{Proto: unix.IPPROTO_TCP, Addr: netip.MustParseAddr("192.0.2.1"), First: 10000, Last: 60000}}))
	require.Equal(t, "192.0.2.1:10000", connect(t, ns, "192.0.2.1:10000", ours).String())
	for _, to := range []string{"127.0.0.1:10000", "192.0.2.1:9999", "[2001:db8::1]:10000"} {
		_, err := ns.Dial(context.Background(), "tcp", to)
		require.ErrorIs(t, err, unix.ECONNREFUSED)
	}

	// Of a group that shares a port the one that was named gets all.
	l2 := listener(t, ns, "[::]:7000", both, reuse)
	listener(t, ns, "[::]:7000", both, reuse)
	require.NoError(t, lead(t, l, l2))
	for range 20 {
		connect(t, ns, "192.0.2.1:10000", l2)
	}

	// One for IPv6 alone gets no IPv4: then it is as if there were no program.
	require.NoError(t, lead(t, l, listener(t, ns, "[::]:0", only)))
	_, err := ns.Dial(context.Background(), "tcp", "192.0.2.1:10000")
	require.ErrorIs(t, err, unix.ECONNREFUSED)

	// None: the same.
	require.NoError(t, l2.Close())
	require.NoError(t, ours.Close())
	_, err = ns.Dial(context.Background(), "tcp", "192.0.2.1:10000")
	require.ErrorIs(t, err, unix.ECONNREFUSED)
}

func TestLookupUDP(t *testing.T) {
	labtest.LeakCheck(t)
	ns := loopback(t)
	l, ok := openLookup(t, ns)
	if !ok {
		return
	}
	ours := ourPackets(t, ns)
	require.NoError(t, lead(t, l, ours))
	bound, six := packets(t, ns, "udp4", "127.0.0.1:20000"), packets(t, ns, "udp6", "[::1]:20000")
	before := packets(t, ns, "udp4", "127.0.0.1:9000")
	say(t, ns, "127.0.0.1:20000", "first")
	require.Equal(t, "first", read(t, bound, late))
	require.NoError(t, l.Add(Range{Proto: unix.IPPROTO_UDP, First: 10000, Last: 60000}))
	for _, to := range []string{"127.0.0.1:10000", "127.0.0.7:33333", "192.0.2.1:60000", "[::1]:60000", "[2001:db8::1]:10001"} {
		say(t, ns, to, to)
		require.Equal(t, to, read(t, ours, late))
	}

	// A socket that is bound and not connected gets nothing any more, unless its port is left out.
	say(t, ns, "127.0.0.1:20000", "taken")
	require.Equal(t, "taken", read(t, ours, late))
	require.NoError(t, l.Remove(Range{Proto: unix.IPPROTO_UDP, First: 20000, Last: 20000}))
	say(t, ns, "127.0.0.1:20000", "left out")
	require.Equal(t, "left out", read(t, bound, late))
	say(t, ns, "[::1]:20000", "left out")
	require.Equal(t, "left out", read(t, six, late))

	// One that is connected gets what its peer sends, whoever has taken the port; others' come to ours.
	flow := packets(t, ns, "udp4", "127.0.0.1:30000")
	raw, err := flow.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		err = unix.Connect(int(fd), &unix.SockaddrInet4{Port: 9000, Addr: [4]byte{127, 0, 0, 1}})
	}))
	require.NoError(t, err)
	_, err = before.WriteTo([]byte("peer"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:30000")))
	require.NoError(t, err)
	require.Equal(t, "peer", read(t, flow, late))
	say(t, ns, "127.0.0.1:30000", "another")
	require.Equal(t, "another", read(t, ours, late))
	require.Empty(t, read(t, flow, soon))
}

// TestLead: sockets that nothing can be led to.
func TestLead(t *testing.T) {
	labtest.LeakCheck(t)
	ns := loopback(t)
	l, ok := openLookup(t, ns)
	if !ok {
		return
	}
	for _, kind := range [][2]int{{unix.SOCK_STREAM, 0}, {unix.SOCK_DGRAM, 0}, {unix.SOCK_STREAM, unix.IPPROTO_MPTCP}} {
		require.NoError(t, ns.Do(func() error {
			fd, err := unix.Socket(unix.AF_INET6, kind[0]|unix.SOCK_CLOEXEC, kind[1])
			if errors.Is(err, unix.EPROTONOSUPPORT) {
				return nil // no MPTCP
			}
			if err != nil {
				return err
			}
			defer func() { _ = unix.Close(fd) }()
			if kind[1] != 0 {
				if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet6{}), unix.Listen(fd, 1)); err != nil {
					return err
				}
			}
			require.ErrorIs(t, l.Lead(fd), unix.EOPNOTSUPP, kind)
			return nil
		}))
	}
	require.ErrorIs(t, l.Lead(-1), unix.EBADF)
}

// TestTake: another process takes everything over, under connections, without one that fails.
func TestTake(t *testing.T) {
	labtest.LeakCheck(t)
	ns := loopback(t)
	l, ok := openLookup(t, ns)
	if !ok {
		return
	}
	h, ok := openHold(t, ns)
	if !ok {
		return
	}
	r := Range{Proto: unix.IPPROTO_TCP, First: 10000, Last: 60000}
	require.NoError(t, errors.Join(h.Add(r), l.Add(r)))
	ours := ourListener(t, ns)
	require.NoError(t, lead(t, l, ours))
	go func() {
		for {
			c, err := ours.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	var stop atomic.Bool
	failed := make(chan error, 1)
	var n atomic.Int64
	bind := socketOf{family: unix.AF_INET, kind: unix.SOCK_STREAM}
	go func() {
		defer close(failed)
		for ; !stop.Load(); n.Add(1) {
			c, err := ns.Dial(context.Background(), "tcp", "127.0.0.1:12345")
			if err != nil {
				failed <- err
				return
			}
			_ = c.Close()
			if bound, err := bind.try(ns, netip.MustParseAddrPort("127.0.0.1:12345")); !errors.Is(bound, unix.EADDRINUSE) {
				failed <- fmt.Errorf("%w, %w", bound, err)
				return
			}
		}
	}()
	opts := HoldOptions{Group: openRoot(t), NetNS: cookieOf(t, ns)}
	for i := range int64(5) {
		require.Eventually(t, func() bool { return n.Load() > i || len(failed) > 0 }, labtest.Stretch(late), time.Millisecond)
		held, err := h.Hand()
		require.NoError(t, err)
		served, err := l.Hand()
		require.NoError(t, err)
		h2, err := TakeHold(opts, held)
		require.NoError(t, err)
		l2, err := TakeLookup(served)
		require.NoError(t, err)
		require.NoError(t, errors.Join(held.Close(), served.Close(), h.Close(), l.Close()))
		require.NoError(t, h2.Replace([]Range{r}))
		*h, *l = *h2, *l2
	}
	stop.Store(true)
	require.NoError(t, <-failed)

	// Another version is not taken, and nothing of it stays open.
	held, err := h.Hand()
	require.NoError(t, err)
	_, err = TakeLookup(held)
	require.ErrorIs(t, err, ErrVersion)
	held.Version++
	_, err = TakeHold(opts, held)
	require.ErrorIs(t, err, ErrVersion)
	require.NoError(t, held.Close())
}
