// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/netns"
)

// inNetNS runs f on a thread in a network namespace of its own, which has
// nothing but lo, with the given MTU; the thread ends with it. ns is a
// descriptor of the namespace.
func inNetNS(t *testing.T, mtu uint32, f func(ns int)) {
	t.Helper()
	done := make(chan error)
	go func() {
		defer close(done) // also when f fails the test and so ends the goroutine
		netns.OnThread(func() { enterNetNS(mtu, f, done) })
	}()
	if err := <-done; err != nil {
		require.NotEqual(t, "require", os.Getenv("NFTNAT_TEST_NETNS"), "no network namespace: %v", err)
		t.Skipf("no network namespace: %v", err)
	}
}

// enterNetNS is the part of inNetNS that runs on the thread.
func enterNetNS(mtu uint32, f func(ns int), done chan<- error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		done <- err
		return
	}
	if err := upLoopback(mtu); err != nil {
		done <- err
		return
	}
	ns, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		done <- err
		return
	}
	defer func() { _ = unix.Close(ns) }()
	f(ns)
}

func upLoopback(mtu uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint32(mtu)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFMTU, ifr); err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// TestOtherNamespace: with NetNS, frontend and backend are those of another
// namespace, although the caller's thread never goes there.
func TestOtherNamespace(t *testing.T) {
	noLeak(t)
	inNetNS(t, 65536, func(ns int) {
		tcp, err := net.Listen("tcp", "127.0.0.1:0") // in the namespace, this thread being there
		require.NoError(t, err)
		defer func() { _ = tcp.Close() }()
		go func() {
			for {
				c, err := tcp.Accept()
				if err != nil {
					return
				}
				go func() { echoTCP(c); _ = c.Close() }()
			}
		}()
		udp, err := net.ListenPacket("udp", "127.0.0.1:0")
		require.NoError(t, err)
		defer func() { _ = udp.Close() }()
		go echoUDP(udp)

		g := NewGroup(&GroupOptions{NetNS: ns})
		defer func() { require.NoError(t, g.Close()) }()
		open := func(front, back net.Addr) (p Proxy, err error) {
			done := make(chan struct{})
			go func() { // on some other thread
				defer close(done)
				if p, err = New(front, back, &Options{Group: g}); err == nil {
					err = p.Open()
				}
			}()
			<-done
			return p, err
		}
		p, err := open(&net.TCPAddr{}, tcp.Addr())
		require.NoError(t, err)
		var conns []net.Conn
		for range 5 { // on every loop
			c := dial(t, "tcp", at("127.0.0.1", p.FrontendAddr()))
			roundTrip(t, c, phrase)
			conns = append(conns, c)
		}
		for _, c := range conns {
			require.NoError(t, c.Close())
		}
		p, err = open(&net.UDPAddr{}, udp.LocalAddr())
		require.NoError(t, err)
		roundTrip(t, dial(t, "udp", at("127.0.0.1", p.FrontendAddr())), phrase)
	})
}

// TestSegmentsAboveMTU: datagrams longer than the MTU cannot leave by UDP_SEGMENT, and
// arrive all the same.
func TestSegmentsAboveMTU(t *testing.T) {
	inNetNS(t, 1500, func(ns int) {
		backend, err := net.ListenUDP("udp", mustUDP(t, "127.0.0.1:0"))
		require.NoError(t, err)
		defer func() { _ = backend.Close() }()
		g := NewGroup(&GroupOptions{NetNS: ns, Loops: 1})
		defer func() { require.NoError(t, g.Close()) }()
		p, err := New(mustUDP(t, "0.0.0.0:0"), backend.LocalAddr(), &Options{Group: g})
		require.NoError(t, err)
		require.NoError(t, p.Open())
		c := dial(t, "udp", at("127.0.0.1", p.FrontendAddr()))
		buf := make([]byte, 1<<16)
		for _, size := range []int{1000, 3000, 1400, 2000} {
			msg := []byte(strings.Repeat("m", size))
			// Queued while the loop cannot read, so that it gets them as one
			// batch and joins them.
			g.started()[0].with(func() {
				for range 10 {
					_, err = c.Write(msg)
				}
			})
			require.NoError(t, err)
			var flow net.Addr
			for range 10 {
				n, from, err := backend.ReadFrom(buf)
				require.NoError(t, err)
				require.Equal(t, size, n)
				flow = from
			}
			g.started()[0].with(func() {
				for range 10 {
					_, err = backend.WriteTo(msg, flow)
				}
			})
			require.NoError(t, err)
			for range 10 {
				n, err := c.Read(buf)
				require.NoError(t, err)
				require.Equal(t, size, n)
			}
		}
		require.Zero(t, p.Stats().Dropped)
	})
}
