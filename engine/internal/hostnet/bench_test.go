// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// BenchmarkLookup looks up one backend, many at once, and what is on link.
func BenchmarkLookup(b *testing.B) {
	top := labtest.NewTopology(b, lab.Options{Parts: lab.PartBackend1})
	ns, err := OpenNamespace(top.Host.Path())
	require.NoError(b, err)
	r, err := OpenRoutes(ns)
	require.NoError(b, err)
	defer r.Close()
	a := netip.MustParseAddr("172.30.0.2")
	b.Run("lookup", func(b *testing.B) {
		for b.Loop() {
			if _, err := r.Lookup(a); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("lookup 60000", func(b *testing.B) {
		var addrs []netip.Addr
		for i := range 60000 {
			addrs = append(addrs, netip.AddrFrom4([4]byte{172, 30, byte(i >> 8), byte(i)}))
		}
		for b.Loop() {
			if _, err := r.LookupAll(addrs); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("onlink", func(b *testing.B) {
		for b.Loop() {
			if _, err := r.OnLink([]string{"br0"}, true); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkConnections lists the connections at one port.
func BenchmarkConnections(b *testing.B) {
	ns, err := OpenNamespace(labtest.NewNS(b, "host").Path())
	require.NoError(b, err)
	for b.Loop() {
		if err := Connections(ns, PortRange{8080, 8080}, func(Connection) {}); err != nil {
			b.Fatal(err)
		}
	}
}
