// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// BenchmarkExplain reads what one explanation needs of a host with 4,000 routes.
func BenchmarkExplain(b *testing.B) {
	ns := labtest.NewNS(b, "bench")
	var lines strings.Builder
	lines.WriteString("link set lo up\nlink add e0 type veth peer name p0\nlink set e0 up\nlink set p0 up\naddr add 10.0.0.1/24 dev e0\n")
	for i := range 4000 {
		fmt.Fprintf(&lines, "route add 10.%d.%d.0/24 via 10.0.0.2\n", 1+i/256, i%256)
	}
	labtest.ExecInput(b, ns, lines.String(), "ip", "-batch", "-")
	require.NoError(b, ns.Sysctl("net.ipv4.ip_forward", "1"))
	f, err := os.Open(ns.Path())
	require.NoError(b, err)
	defer func() { _ = f.Close() }()
	for _, dst := range []string{"10.3.3.3", "11.0.0.1"} {
		b.Run(dst, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				h, err := Open(int(f.Fd()))
				require.NoError(b, err)
				e0, err := h.LinkByName("e0")
				require.NoError(b, err)
				_, fault, err := h.Lookup(RouteQuery{Dst: netip.MustParseAddr(dst), Src: netip.MustParseAddr("10.0.0.7"), Iif: e0.Index, Proto: unix.IPPROTO_TCP})
				require.NoError(b, err)
				require.Equal(b, dst == "11.0.0.1", fault != nil)
				_, err = h.Address(netip.MustParseAddr("10.0.0.1"))
				require.NoError(b, err)
				_, err = h.Neighbour(netip.MustParseAddr("10.0.0.2"), e0.Index)
				require.NoError(b, err)
				for _, name := range []string{"rp_filter", "accept_local", "route_localnet", "arp_ignore"} {
					_, _, err = h.Setting(true, e0.Index, name)
					require.NoError(b, err)
				}
				_, err = h.Filters(e0.Index, false)
				require.NoError(b, err)
				_, err = h.Sockets(unix.IPPROTO_TCP, 80)
				require.NoError(b, err)
				require.NoError(b, h.Close())
			}
		})
	}
}
