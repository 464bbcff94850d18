// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// A wire on the way to the backend has a smaller MTU than both ends. TCP through the mapping
// works in both directions: the client learns the MTU from an ICMP error that was
// translated, and the backend from one that was not.
func TestPathMTU(t *testing.T) {
	for _, mtu := range []int{576, minMTU6} {
		n := newNarrow(t, mtu)
		e := open(t, n.Host, engine.Options{})
		labtest.EchoTCP(t, n.deep, "deep", ":80")
		labtest.EchoUDP(t, n.deep, "deep", ":80")
		for _, f := range n.families {
			// Another address for each protocol, because the kernel remembers a path's MTU.
			tcp, udp := f.host, f.second
			publish(t, e, toward(tcp, 8080, 8080)+"->"+at(f.deep, 80), toward(udp, 8080, 8080)+"->"+at(f.deep, 80)+"/udp")
			t.Run(fmt.Sprintf("%d/%s/client", mtu, f.name), func(t *testing.T) {
				echoStream(t, n.Client, at(tcp, 8080), "deep", mtu)
				learnByDatagram(t, n.Client, f.family, netip.AddrPortFrom(udp, 8080), mtu)
			})
			t.Run(fmt.Sprintf("%d/%s/host", mtu, f.name), func(t *testing.T) {
				// Over IPv4 the host stores no MTU for a path that begins at its
				// loopback. It acts on the errors only when its segments have timed out,
				// which takes six seconds.
				if f.host.Is6() {
					echoStream(t, n.Host, at(tcp, 8080), "deep", mtu)
				}
				learnByDatagram(t, n.Host, f.family, netip.AddrPortFrom(udp, 8080), mtu)
			})
		}
	}
}

// The backend's own wire has the small MTU, as with most tunnels and overlays.
func TestPathMTUOfBackend(t *testing.T) {
	for _, mtu := range []int{576, minMTU6} {
		top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
		e := open(t, top.Host, engine.Options{})
		labtest.EchoTCP(t, top.Backend1, "backend1", ":80")
		labtest.EchoUDP(t, top.Backend1, "backend1", ":80")
		both := families(top)
		if mtu < minMTU6 {
			both = both[:1]
		}
		for _, end := range []struct {
			ns   *lab.NS
			link string
		}{{top.Backend1, lab.MachineLink}, {top.Host, lab.HostPort1}, {top.Host, lab.HostBridge}} {
			labtest.Exec(t, end.ns, "ip", "link", "set", end.link, "mtu", fmt.Sprint(mtu))
		}
		for _, f := range both {
			publish(t, e, toward(f.wildcard, 8080, 8080)+"->"+at(f.backend1, 80),
				toward(f.wildcard, 8080, 8080)+"->"+at(f.backend1, 80)+"/udp")
			for _, from := range []*lab.NS{top.Client, top.Host} {
				t.Run(fmt.Sprintf("%d/%s/%s", mtu, f.name, from), func(t *testing.T) {
					// The backend announces the size of segments (MSS) in its first one.
					echoStream(t, from, at(f.host, 8080), "backend1", 0)
					learnByDatagram(t, from, f, netip.AddrPortFrom(f.second, 8080), mtu)
				})
			}
		}
	}
}

// echoStream sends a megabyte, which is echoed. If mtu is not zero, the client's kernel must
// know it afterwards.
func echoStream(t *testing.T, from *lab.NS, addr, name string, mtu int) {
	t.Helper()
	c, err := from.Dial(t.Context(), "tcp", addr)
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	require.NoError(t, c.SetDeadline(time.Now().Add(2*answerTimeout)))
	sent := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(sent)
	written := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		written <- errors.Join(err, c.(*net.TCPConn).CloseWrite())
	}()
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, name+" ")
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, <-written)
	require.True(t, bytes.Equal(sent, got))
	if mtu != 0 {
		require.Equal(t, mtu, pathMTU(t, c))
	}
}

// learnByDatagram sends a datagram that is too large and must not be fragmented. The error
// has the next hop's MTU and the packet as the client has sent it, so that the client learns
// the MTU.
func learnByDatagram(t *testing.T, from *lab.NS, f family, to netip.AddrPort, mtu int) {
	t.Helper()
	listener := listenICMP(t, from, f)
	c, err := from.Dial(t.Context(), "udp", to.String())
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	require.NoError(t, c.SetDeadline(time.Now().Add(answerTimeout)))
	forbidFragments(t, c, to.Addr())
	source := c.LocalAddr().(*net.UDPAddr).AddrPort()
	_, err = c.Write(make([]byte, tooLarge))
	own := source.Addr() == f.host || source.Addr() == f.second
	if !own { // otherwise the kernel may refuse it at once
		require.NoError(t, err, "the client knows already")
	}
	kind, code := tooBig.of(to.Addr())
	require.Equal(t, icmpError{
		from: to.Addr(), kind: kind, code: code, mtu: mtu, proto: unix.IPPROTO_UDP, src: source, dst: to,
	}, listener.next(t, source.Port()))
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, unix.EMSGSIZE, "the socket is told as well")
	if !own {
		require.Equal(t, mtu, pathMTU(t, c))
		_, err = c.Write(make([]byte, tooLarge))
		require.ErrorIs(t, err, unix.EMSGSIZE)
	}

	const headers, line = 48, 100 // the answer is a line longer
	_, err = c.Write(make([]byte, mtu-headers-line))
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 2048))
	require.NoError(t, err)
}

// tooLarge is the size of a datagram that fits all wires except the narrow one.
const tooLarge = 1400

func forbidFragments(t *testing.T, c net.Conn, to netip.Addr) {
	t.Helper()
	control(t, c, func(fd int) error {
		if to.Is4() {
			return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		}
		return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
	})
}

// pathMTU returns the MTU that the kernel knows for a connection's path.
func pathMTU(t *testing.T, c net.Conn) (mtu int) {
	t.Helper()
	level, option := unix.SOL_IP, unix.IP_MTU
	if host, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil && host.Addr().Is6() {
		level, option = unix.SOL_IPV6, unix.IPV6_MTU
	}
	control(t, c, func(fd int) (err error) {
		mtu, err = unix.GetsockoptInt(fd, level, option)
		return err
	})
	return mtu
}

func control(t *testing.T, c net.Conn, f func(fd int) error) {
	t.Helper()
	rc, err := c.(syscall.Conn).SyscallConn()
	require.NoError(t, err)
	var failed error
	require.NoError(t, rc.Control(func(fd uintptr) { failed = f(int(fd)) }))
	require.NoError(t, failed)
}
