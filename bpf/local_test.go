// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"io/fs"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func cookieOf(t *testing.T, ns *lab.NS) (cookie uint64) {
	t.Helper()
	require.NoError(t, ns.Do(func() error {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(s) }()
		cookie, err = unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	}))
	return cookie
}

// openLocal opens a Local for a namespace. False: this process may not.
func openLocal(t *testing.T, ns *lab.NS) (*Local, bool) {
	t.Helper()
	group, err := RootGroup()
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
		t.Log(err) // tests of a user namespace
		return nil, false
	}
	require.NoError(t, err)
	defer func() { require.NoError(t, group.Close()) }()
	l, err := OpenLocal(LocalOptions{Group: int(group.Fd()), NetNS: cookieOf(t, ns)})
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
		t.Log(err)
		return nil, false
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l, true
}

func entry(protocol uint32, frontend, backend string) LocalEntry {
	return LocalEntry{Protocol: protocol, Frontend: netip.MustParseAddrPort(frontend), Backend: netip.MustParseAddrPort(backend)}
}

// TestLocal: what asks for localhost reaches the backend, and what has no mapping reaches what is there.
func TestLocal(t *testing.T) {
	labtest.LeakCheck(t)
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	labtest.EchoUDP(t, top.Backend1, "web", ":80")
	labtest.EchoTCP(t, top.Backend2, "wide", ":1500")
	labtest.EchoUDP(t, top.Backend2, "wide", ":1500")
	labtest.EchoTCP(t, top.Host, "host", ":1500")
	l, ok := openLocal(t, top.Host)
	if !ok {
		return
	}
	require.Empty(t, l.Limits())
	for _, protocol := range []struct {
		network string
		number  uint32
	}{{"tcp", TCP}, {"udp", UDP}} {
		require.NoError(t, l.Put(
			entry(protocol.number, "0.0.0.0:8080", "172.30.0.2:80"),
			entry(protocol.number, "[::]:8080", "[fd00:30::2]:80"),
			entry(protocol.number, "[::1]:8081", "172.30.0.2:80"),
			ranged(protocol.number, "0.0.0.0:1000", 1999, "172.30.0.3:1000"),
			ranged(protocol.number, "[::]:1000", 1999, "[fd00:30::3]:1000"),
		))
		for addr, want := range map[string]netip.Addr{
			"127.0.0.1:8080": top.Gateway4,
			"127.9.9.9:8080": top.Gateway4,
			"0.0.0.0:8080":   top.Gateway4,
			"[::1]:8080":     top.Gateway6,
			"[::]:8080":      top.Gateway6,
			"[::1]:8081":     top.Gateway4,
		} {
			network := protocol.network
			if addr == "[::]:8080" {
				network += "6" // or else package net tries 0.0.0.0 beside ::, and in another namespace
			}
			require.Equal(t, want, labtest.Reaches(t, top.Host, network, addr, "web").Addr(), addr)
		}
		require.Equal(t, top.Gateway4, labtest.Reaches(t, top.Host, protocol.network, "127.0.0.1:1500", "wide").Addr())
		require.Equal(t, top.Gateway6, labtest.Reaches(t, top.Host, protocol.network, "[::1]:1500", "wide").Addr())
	}
	require.NoError(t, l.Put(LocalEntry{Protocol: TCP, Frontend: netip.MustParseAddrPort("0.0.0.0:1500")}))
	labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:1500", "host")
	labtest.Reaches(t, top.Host, "tcp", "[::1]:1500", "wide")
	labtest.Reaches(t, top.Host, "udp", "127.0.0.1:1500", "wide")
	require.NoError(t, l.Delete(entry(TCP, "0.0.0.0:1500", "172.30.0.3:1500")))
	labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:1500", "wide")
	require.NoError(t, l.Replace(nil))
	labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:1500", "host")
	all, err := l.All()
	require.NoError(t, err)
	require.Empty(t, all)
}

func ranged(protocol uint32, frontend string, last uint16, backend string) LocalEntry {
	e := entry(protocol, frontend, backend)
	e.Last = last
	return e
}
