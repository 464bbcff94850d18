// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/ipam"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// The state has ranges of endpoints and others as one.
func TestStateOfRanges(t *testing.T) {
	leases := ipam.New()
	require.NoError(t, leases.AddNetwork(nat.Network{Name: "inside", Prefix: netip.MustParsePrefix("172.30.0.0/24")}.WithDefaults()))
	require.NoError(t, leases.Add(nat.EndpointSpec{Name: "sip", Network: "inside", Address: netip.MustParseAddr("172.30.0.2")}))
	rtp, turn := nattest.Mapping(t, "10000-60000->172.30.0.2:10000-60000/udp"), nattest.Mapping(t, "192.0.2.1:49160-49200->172.30.0.9:49160-49200/udp")
	rtp.Name = "sip"
	s := stateOf(leases, slices.Values([]portset.Port{portset.Whole(&rtp), portset.Whole(&turn)}))
	require.Equal(t, []nat.Mapping{turn}, s.Mappings)
	require.Len(t, s.Endpoints, 1)
	require.Equal(t, []nat.PortSpec{{Proto: nat.UDP, Frontend: rtp.Frontend, Backend: 10000, More: 50000}}, s.Endpoints[0].Ports)
}
