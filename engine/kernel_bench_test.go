// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// openKernel opens an engine without proxies on the table of a namespace of its own.
func openKernel(b *testing.B) (*Engine, Options) {
	b.Helper()
	ns := labtest.NewNS(b, "host")
	opts := Options{NetNS: ns.Path(), NoProxies: true}
	e, err := Open(b.Context(), opts)
	require.NoError(b, err)
	return e, opts
}

// BenchmarkKernelApply60000 fills an empty table of the real kernel.
func BenchmarkKernelApply60000(b *testing.B) {
	ms := manyMappings(crowd)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		e, _ := openKernel(b)
		b.StartTimer()
		_, err := e.Apply(b.Context(), ms...)
		b.StopTimer()
		require.NoError(b, err)
		require.NoError(b, e.Purge(b.Context()))
		b.StartTimer()
	}
}

// BenchmarkKernelPublish publishes one mapping and takes it back.
func BenchmarkKernelPublish(b *testing.B) {
	for _, beside := range []int{0, crowd} {
		b.Run(fmt.Sprintf("beside=%d", beside), func(b *testing.B) {
			e, _ := openKernel(b)
			_, err := e.Apply(b.Context(), manyMappings(beside+1)...)
			require.NoError(b, err)
			publishOver(b, e)
			require.NoError(b, e.Close())
		})
	}
}

// BenchmarkKernelAdopt60000 opens an engine on a full table of the real kernel.
func BenchmarkKernelAdopt60000(b *testing.B) {
	e, opts := openKernel(b)
	adoptOver(b, e, opts, manyMappings(crowd))
}

// adoptOver has the engine publish the mappings, closes it, and opens engines on its table.
func adoptOver(b *testing.B, e *Engine, opts Options, ms []nat.Mapping) {
	b.Helper()
	_, err := e.Apply(b.Context(), ms...)
	require.NoError(b, err)
	require.NoError(b, e.Close())
	b.ReportAllocs()
	for b.Loop() {
		e, err := Open(b.Context(), opts)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		require.NoError(b, e.Close())
		b.StartTimer()
	}
}

// BenchmarkKernelConnections60000 counts the connections of as many mappings, a flow each.
func BenchmarkKernelConnections60000(b *testing.B) {
	top := labtest.NewTopology(b, lab.Options{Parts: lab.PartBackend1})
	e, err := Open(b.Context(), Options{NetNS: top.Host.Path(), NoProxies: true})
	require.NoError(b, err)
	defer func() { require.NoError(b, e.Close()) }()
	ms := manyMappings(crowd)
	for i := range ms {
		ms[i].Proto = nat.UDP
		ms[i].Backend = netip.MustParseAddrPort("172.30.0.2:80") // one that answers ARP
	}
	_, err = e.Apply(b.Context(), ms...)
	require.NoError(b, err)
	c, err := top.Host.ListenPacket("udp", "192.0.2.1:0")
	require.NoError(b, err)
	require.NoError(b, c.SetDeadline(time.Now().Add(time.Minute)))
	defer func() { require.NoError(b, c.Close()) }()
	for _, m := range ms {
		// Nobody listens there, but what is sent is a flow all the same.
		to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), m.Frontend.Port()))
		_, _ = c.WriteTo([]byte{0}, to)
	}
	var all []nat.Connections
	for b.Loop() {
		if all, err = e.Connections(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(all)), "flows")
}
