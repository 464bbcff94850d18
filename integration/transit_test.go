// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// Packets that pass through the host to another machine are not changed, even on published
// ports: neither destination, source nor source port.
func TestTransit(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartFar, Forwarding: true})
	e := open(t, top.Host, engine.Options{})
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend", ":8080")
		for i, f := range families(top) {
			t.Run(network+"/"+f.name, func(t *testing.T) {
				labtest.Echo(t, top.Far, network, "far", at(f.far, 8080))
				labtest.Echo(t, top.Client, network, "client", at(f.client, 8080))
				kinds := []string{
					"8080->" + at(f.backend1, 8080), toward(f.wildcard, 8080, 8080) + "->" + at(f.backend1, 8080),
					toward(f.host, 8080, 8080) + "->" + at(f.backend1, 8080), "8000-8100->" + toward(f.backend1, 8000, 8100),
				}
				for j, kind := range kinds {
					publish(t, e, kind+suffix(network))
					labtest.Reaches(t, top.Client, network, at(f.host, 8080), "backend")
					// In both directions, and from a backend to the outside.
					from := netip.AddrPortFrom(f.client, uint16(20000+10*i+j))
					untouched(t, top, network, top.Client, from, netip.AddrPortFrom(f.far, 8080), "far")
					from = netip.AddrPortFrom(f.far, uint16(20000+10*i+j))
					untouched(t, top, network, top.Far, from, netip.AddrPortFrom(f.client, 8080), "client")
					from = netip.AddrPortFrom(f.backend1, uint16(20000+10*i+j))
					untouched(t, top, network, top.Backend1, from, netip.AddrPortFrom(f.far, 8080), "far")
					// And from the host to others.
					labtest.Reaches(t, top.Host, network, at(f.far, 8080), "far")
					unpublish(t, e, kind+suffix(network))
				}
			})
		}
	}
	ping(t, top.Client, top.Far.V4)
	ping(t, top.Client, top.Far.V6)
}

// untouched sends from one machine to another through the host, and checks the addresses at
// the server and in the host's connection tracking.
func untouched(t *testing.T, top *lab.Topology, network string, ns *lab.NS, from, to netip.AddrPort, name string) {
	t.Helper()
	got, peer, err := lab.Ask(t.Context(), ns, network, to.String(), from)
	require.NoError(t, err)
	require.Equal(t, name, got)
	require.Equal(t, from, peer)
	require.Contains(t, tracked(t, top.Host, network, to.Addr()), fmt.Sprintf(
		"%s src=%s dst=%s sport=%d dport=%d src=%s dst=%s sport=%d dport=%d", network,
		from.Addr(), to.Addr(), from.Port(), to.Port(), to.Addr(), from.Addr(), to.Port(), from.Port()))
}
