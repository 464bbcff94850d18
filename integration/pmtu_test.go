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

// A wire on the way to the backend is narrower than either end knows. TCP through the
// mapping completes in both directions, the client having learned by an error that came
// through the NAT what the backend has learned directly.
func TestPathMTU(t *testing.T) {
	for _, mtu := range []int{576, minMTU6} {
		n := newNarrow(t, mtu)
		e := open(t, n.Host, engine.Options{})
		labtest.EchoTCP(t, n.deep, "deep", ":80")
		labtest.EchoUDP(t, n.deep, "deep", ":80")
		for _, f := range n.families {
			// The kernel keeps what it has learned of a path: an address for each
			// protocol, so that both have to learn it.
			tcp, udp := f.host, f.second
			publish(t, e, toward(tcp, 8080, 8080)+"->"+at(f.deep, 80), toward(udp, 8080, 8080)+"->"+at(f.deep, 80)+"/udp")
			t.Run(fmt.Sprintf("%d/%s/client", mtu, f.name), func(t *testing.T) {
				echoStream(t, n.Client, at(tcp, 8080), "deep", mtu)
				learnByDatagram(t, n.Client, f.family, netip.AddrPortFrom(udp, 8080), mtu)
			})
			t.Run(fmt.Sprintf("%d/%s/host", mtu, f.name), func(t *testing.T) {
				// Over IPv4 the host keeps no MTU of a path that begins at its own
				// loopback. It gets the errors, but minds them only when its segments
				// have timed out, which takes six seconds.
				if f.host.Is6() {
					echoStream(t, n.Host, at(tcp, 8080), "deep", mtu)
				}
				learnByDatagram(t, n.Host, f.family, netip.AddrPortFrom(udp, 8080), mtu)
			})
		}
	}
}

// The wire of the backend itself is narrow: what most tunnels and overlays are like.
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
					// The backend says in its first segment how large the others may be.
					echoStream(t, from, at(f.host, 8080), "backend1", 0)
					learnByDatagram(t, from, f, netip.AddrPortFrom(f.second, 8080), mtu)
				})
			}
		}
	}
}

// echoStream has a megabyte echoed. If mtu is not zero, the client is to know then that
// the path has it.
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

// learnByDatagram sends a datagram that must not be fragmented, and is too large. The
// error names the next hop's MTU and the packet as the client has sent it; so the client
// knows better from then on.
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
	if !own { // else the kernel may say so at once
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

	const headers, line = 48, 100 // the answer is longer than the question by a line
	_, err = c.Write(make([]byte, mtu-headers-line))
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 2048))
	require.NoError(t, err)
}

// tooLarge is the size of a datagram that fits the wires, but for the narrow one.
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

// pathMTU is what the kernel knows of a connection's path.
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
