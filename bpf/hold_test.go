// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// openHold opens a Hold of a namespace. False: this machine may not.
func openHold(t *testing.T, ns *lab.NS) (*Hold, bool) {
	t.Helper()
	h, err := OpenHold(HoldOptions{Group: openRoot(t), NetNS: cookieOf(t, ns)})
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
		t.Log(err) // a user namespace
		return nil, false
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return h, true
}

// socketOf is a kind of socket.
type socketOf struct {
	family, kind, protocol int
	v6only                 bool
	before                 func(fd int) error
}

// bind binds a socket in a namespace and closes it. The error is that of bind(2).
func (s socketOf) bind(t *testing.T, ns *lab.NS, at netip.AddrPort) error {
	t.Helper()
	bound, err := s.try(ns, at)
	require.NoError(t, err)
	return bound
}

func (s socketOf) try(ns *lab.NS, at netip.AddrPort) (bound, err error) {
	err = ns.Do(func() error {
		fd, err := unix.Socket(s.family, s.kind|unix.SOCK_CLOEXEC, s.protocol)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		if s.family == unix.AF_INET6 {
			only := 0
			if s.v6only {
				only = 1
			}
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
				return err
			}
		}
		for _, o := range [][2]int{{unix.IPPROTO_IP, unix.IP_FREEBIND}, {unix.SOL_SOCKET, unix.SO_REUSEADDR}} {
			if err := unix.SetsockoptInt(fd, o[0], o[1], 1); err != nil && s.protocol != unix.IPPROTO_MPTCP {
				return err
			}
		}
		if s.before != nil {
			if err := s.before(fd); err != nil {
				return err
			}
		}
		var name unix.Sockaddr = &unix.SockaddrInet4{Port: int(at.Port())}
		if s.family == unix.AF_INET6 {
			name = &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
		} else {
			name.(*unix.SockaddrInet4).Addr = at.Addr().As4()
		}
		bound = unix.Bind(fd, name)
		return nil
	})
	return bound, err
}

// TestHold: each address that a socket can bind, against each address that a port is held for, is refused exactly where
// a socket with that address is in the way.
func TestHold(t *testing.T) {
	labtest.LeakCheck(t)
	ns, other := loopback(t), labtest.NewNS(t, "other")
	h, ok := openHold(t, ns)
	if !ok {
		return
	}
	require.True(t, h.TellsV6Only() || findV6Only().mask == 0)
	kinds := map[string]socketOf{
		"TCP": {kind: unix.SOCK_STREAM}, "UDP": {kind: unix.SOCK_DGRAM},
	}
	if mptcp, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP); err == nil {
		require.NoError(t, unix.Close(mptcp))
		kinds["MPTCP"] = socketOf{kind: unix.SOCK_STREAM, protocol: unix.IPPROTO_MPTCP}
	}
	held := []netip.Addr{{}} // both families
	for _, a := range []string{"0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "127.0.0.1", "::1"} {
		held = append(held, netip.MustParseAddr(a))
	}
	asked := []struct {
		addr   string
		v6only bool
		like   func(held netip.Addr) bool
	}{
		{"0.0.0.0", false, netip.Addr.Is4},
		{"::ffff:0.0.0.0", false, netip.Addr.Is4},
		{"::", false, netip.Addr.IsValid},
		{"::", true, netip.Addr.Is6},
		{"192.0.2.1", false, func(a netip.Addr) bool { return a.Is4() && a.String() != "127.0.0.1" }},
		{"::ffff:192.0.2.1", false, func(a netip.Addr) bool { return a.Is4() && a.String() != "127.0.0.1" }},
		{"127.0.0.1", false, func(a netip.Addr) bool { return a.Is4() && a.String() != "192.0.2.1" }},
		{"192.0.2.9", false, func(a netip.Addr) bool { return a == netip.IPv4Unspecified() }},
		{"2001:db8::1", false, func(a netip.Addr) bool { return a == netip.IPv6Unspecified() || a.String() == "2001:db8::1" }},
		{"::1", true, func(a netip.Addr) bool { return a == netip.IPv6Unspecified() || a.String() == "::1" }},
	}
	const first, last, hole = 4000, 4999, 4500
	for name, kind := range kinds {
		proto := uint8(unix.IPPROTO_TCP)
		if name == "UDP" {
			proto = unix.IPPROTO_UDP
		}
		for _, of := range held {
			r := Range{Proto: proto, Addr: of, First: first, Last: last}
			require.NoError(t, h.Add(r))
			require.NoError(t, h.Remove(Range{Proto: proto, Addr: of, First: hole, Last: hole}))
			for _, a := range asked {
				s, addr := kind, netip.MustParseAddr(a.addr)
				s.family, s.v6only = unix.AF_INET6, a.v6only
				if addr.Is4() {
					s.family = unix.AF_INET
				}
				if s.protocol == unix.IPPROTO_MPTCP && a.addr == "192.0.2.9" {
					continue // no IP_FREEBIND
				}
				refused := !of.IsValid() || a.like(of)
				for port, want := range map[uint16]bool{first: refused, 4242: refused, last: refused, first - 1: false, last + 1: false, hole: false} {
					err := s.bind(t, ns, netip.AddrPortFrom(addr, port))
					if want {
						require.ErrorIs(t, err, unix.EADDRINUSE, "%s %s port %d, held for %s", name, a.addr, port, of)
					} else {
						require.NoError(t, err, "%s %s port %d, held for %s", name, a.addr, port, of)
					}
				}
				if refused {
					elsewhere := s
					elsewhere.v6only = false
					require.NoError(t, elsewhere.bind(t, other, netip.AddrPortFrom(addr, 4242)), "another namespace")
					if s.protocol == 0 {
						s.before = h.Exempt
						require.NoError(t, s.bind(t, ns, netip.AddrPortFrom(addr, 4242)), "an exempt socket")
					}
				}
			}
			require.NoError(t, h.Remove(r))
		}
	}
	require.Zero(t, h.entries(t))

	// Nor are the other protocol, a port that the kernel chooses, and other protocols.
	require.NoError(t, h.Add(Range{Proto: unix.IPPROTO_TCP, First: 1, Last: 65535}))
	for _, s := range []socketOf{{unix.AF_INET, unix.SOCK_DGRAM, 0, false, nil}, {unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE, false, nil}} {
		if err := s.bind(t, ns, netip.MustParseAddrPort("127.0.0.1:4242")); !errors.Is(err, unix.EPROTONOSUPPORT) {
			require.NoError(t, err)
		}
	}
	require.NoError(t, socketOf{family: unix.AF_INET, kind: unix.SOCK_STREAM}.bind(t, ns, netip.MustParseAddrPort("127.0.0.1:0")))
}

// TestAssembleHold: the programs have an end for each jump, whatever the kernel tells.
func TestAssembleHold(t *testing.T) {
	for _, list := range []asm.Instructions{
		assembleBind(false, 1<<40, bitAt{}, 3, 4), assembleBind(true, 1<<40, bitAt{}, 3, 4), assembleBind(true, 1<<40, bitAt{19, 32}, 3, 4), assembleLookup(3, 4),
	} {
		symbols, err := list.SymbolOffsets()
		require.NoError(t, err)
		for name := range list.ReferenceOffsets() {
			require.Contains(t, symbols, name)
		}
	}
}

// openRoot opens the root of cgroup2.
func openRoot(t *testing.T) int {
	t.Helper()
	root, err := RootGroup()
	if err != nil {
		t.Log(err)
		return -1
	}
	t.Cleanup(func() { require.NoError(t, root.Close()) })
	return int(root.Fd())
}

// TestWithoutPrivilege: what a process without any capability can do with what it has opened before.
func TestWithoutPrivilege(t *testing.T) {
	labtest.LeakCheck(t)
	ns := loopback(t)
	h, ok := openHold(t, ns)
	if !ok {
		return
	}
	l, ok := openLookup(t, ns)
	if !ok {
		return
	}
	tcp, udp := ours(t, ns, unix.SOCK_STREAM), ours(t, ns, unix.SOCK_DGRAM)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread goes with its privileges
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			done <- err
			return
		}
		r := Range{Proto: unix.IPPROTO_TCP, First: 10000, Last: 60000}
		one := Range{Proto: unix.IPPROTO_TCP, First: 20000, Last: 20000}
		for _, p := range []*Ports{h.Ports, l.Ports} {
			if err := errors.Join(p.Add(r), p.Remove(one), p.Replace([]Range{r}), p.Remove(one)); err != nil {
				done <- err
				return
			}
		}
		_, err := OpenLookup(0)
		if !errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("open without privilege: %w", err)
		} else {
			err = nil
		}
		done <- errors.Join(err, h.Exempt(int(udp.Fd())), l.Lead(int(tcp.Fd())), l.Lead(int(udp.Fd())))
	}()
	require.NoError(t, <-done)
	s := socketOf{family: unix.AF_INET, kind: unix.SOCK_STREAM}
	require.ErrorIs(t, s.bind(t, ns, netip.MustParseAddrPort("127.0.0.1:12345")), unix.EADDRINUSE)
	require.NoError(t, s.bind(t, ns, netip.MustParseAddrPort("127.0.0.1:20000")))
	listener, err := net.FileListener(tcp)
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	require.Equal(t, "127.0.0.1:12345", connect(t, ns, "127.0.0.1:12345", listener.(*net.TCPListener)).String())
}

// TestTwoHolds: those of two processes are in force beside each other, and what one exempts the other does not.
func TestTwoHolds(t *testing.T) {
	labtest.LeakCheck(t)
	ns := loopback(t)
	h, ok := openHold(t, ns)
	if !ok {
		return
	}
	second, ok := openHold(t, ns)
	if !ok {
		return
	}
	r := func(port uint16) Range { return Range{Proto: unix.IPPROTO_TCP, First: port, Last: port} }
	require.NoError(t, errors.Join(h.Add(r(4000)), second.Add(r(4001))))
	s := socketOf{family: unix.AF_INET6, kind: unix.SOCK_STREAM}
	for port, want := range map[uint16]error{4000: unix.EADDRINUSE, 4001: unix.EADDRINUSE, 4002: nil} {
		require.ErrorIs(t, s.bind(t, ns, netip.AddrPortFrom(netip.IPv6Unspecified(), port)), want)
	}
	s.before = h.Exempt // not from the other
	require.NoError(t, s.bind(t, ns, netip.AddrPortFrom(netip.IPv6Unspecified(), 4000)))
	require.ErrorIs(t, s.bind(t, ns, netip.AddrPortFrom(netip.IPv6Unspecified(), 4001)), unix.EADDRINUSE)

	// A process whose programs are of another version, with other maps behind, takes the exemption and no more.
	handed, err := second.Hand()
	require.NoError(t, err)
	defer func() { require.NoError(t, handed.Close()) }()
	newer := Handed{Version: handed.Version + 1, Files: append(slices.Clone(handed.Files), handed.Files...)}
	_, err = TakeHold(HoldOptions{}, newer)
	require.ErrorIs(t, err, ErrVersion)
	x, err := TakeExemption(newer)
	require.NoError(t, err)
	s.before = x.Exempt
	require.NoError(t, s.bind(t, ns, netip.AddrPortFrom(netip.IPv6Unspecified(), 4001)))
	require.ErrorIs(t, s.bind(t, ns, netip.AddrPortFrom(netip.IPv6Unspecified(), 4000)), unix.EADDRINUSE)
	require.NoError(t, x.Close())
	for _, files := range [][]*os.File{nil, handed.Files[:1], {handed.Files[0], handed.Files[0]}} {
		_, err = TakeExemption(Handed{Version: 1, Files: files})
		require.ErrorIs(t, err, ErrVersion)
	}

	// A group that is no directory of cgroup2.
	_, err = OpenHold(HoldOptions{Group: -1, NetNS: 1})
	require.Error(t, err)
}
