// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"io/fs"
	"net/netip"
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
	ns, other := labtest.NewNS(t, "host"), labtest.NewNS(t, "other")
	labtest.Exec(t, ns, "ip", "link", "set", "lo", "up")
	labtest.Exec(t, ns, "ip", "addr", "add", "192.0.2.1/32", "dev", "lo")
	labtest.Exec(t, ns, "ip", "addr", "add", "2001:db8::1/128", "dev", "lo", "nodad")
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
