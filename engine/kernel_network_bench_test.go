// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// openNetworked is openKernel with a masqueraded network that has the backends of networkedMappings.
func openNetworked(b *testing.B) (*Engine, Options) {
	b.Helper()
	e, opts := openKernel(b)
	_, err := e.CreateNetwork(b.Context(), nat.Network{Name: "inside", Prefix: netip.MustParsePrefix("172.30.0.0/16")})
	require.NoError(b, err)
	return e, opts
}

// networked is how many ports backends in a network publish.
const networked = 10_000

// networkedMappings are mappings to different ports of backends.
func networkedMappings(n int) []nat.Mapping {
	ms := manyMappings(n)
	for i := range ms {
		ms[i].Backend = netip.AddrPortFrom(ms[i].Backend.Addr(), ms[i].Frontend.Port())
	}
	return ms
}

// BenchmarkKernelApplyNetworked fills a table with ports of backends in a network.
func BenchmarkKernelApplyNetworked(b *testing.B) {
	ms := networkedMappings(networked)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		e, _ := openNetworked(b)
		b.StartTimer()
		_, err := e.Apply(b.Context(), ms...)
		b.StopTimer()
		require.NoError(b, err)
		require.NoError(b, e.Purge(b.Context()))
		b.StartTimer()
	}
}

// BenchmarkKernelPublishNetworked publishes one port of a backend in a network and takes it
// back.
func BenchmarkKernelPublishNetworked(b *testing.B) {
	e, _ := openNetworked(b)
	_, err := e.Apply(b.Context(), networkedMappings(networked+1)...)
	require.NoError(b, err)
	publishOver(b, e)
	require.NoError(b, e.Close())
}

// BenchmarkKernelAdoptNetworked opens an engine on a table with ports of backends in a network.
func BenchmarkKernelAdoptNetworked(b *testing.B) {
	e, opts := openNetworked(b)
	adoptOver(b, e, opts, networkedMappings(networked))
}
