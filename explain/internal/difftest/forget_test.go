// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package difftest

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Of a client that began a connection and did not complete it, as explain does, no backend knows anything when another
// one comes from the same address and port, as by masquerading.
func TestBackendsForget(t *testing.T) {
	s := newSite(t)
	for _, to := range []string{"172.30.0.2:80", "[fd30::2]:80"} {
		server := netip.MustParseAddrPort(to)
		from, family := netip.AddrPortFrom(bridge4, 35346), unix.AF_INET
		if server.Addr().Is6() {
			from, family = netip.AddrPortFrom(bridge6, 35346), unix.AF_INET6
		}
		connect := func(half bool) (accepted int) {
			s.in(s.host, func() {
				fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
				require.NoError(t, err)
				defer s.reset(fd)
				if half { // it receives nothing
					drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
					require.NoError(t, unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop[0]}))
				}
				require.NoError(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
				require.NoError(t, unix.Bind(fd, sockaddr(from)))
				if err := unix.Connect(fd, sockaddr(server)); !errors.Is(err, unix.EINPROGRESS) {
					require.NoError(t, err)
				}
				s.quiesce()
				accepted = s.answer(s.backends[0])
			})
			s.quiesce()
			s.flushConntrack()
			return accepted
		}
		require.Zero(t, connect(true))
		require.Equal(t, 1, connect(false), to)
	}
}
