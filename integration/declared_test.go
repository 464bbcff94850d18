// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// declare creates the networks of the topology's bridge, in both families.
func declare(t *testing.T, e *engine.Engine, top *lab.Topology) {
	t.Helper()
	for _, n := range []nat.Network{
		{Name: "inside", Prefix: top.Inside4, Gateway: top.Gateway4},
		{Name: "inside6", Prefix: top.Inside6, Gateway: top.Gateway6},
	} {
		_, err := e.CreateNetwork(t.Context(), n)
		require.NoError(t, err)
	}
}

// attachAt attaches an endpoint at a machine's address.
func attachAt(t *testing.T, e *engine.Engine, name string, ns *lab.NS, specs ...string) *engine.Endpoint {
	t.Helper()
	a := nat.EndpointSpec{Name: name, Address: ns.V4}
	for _, spec := range specs {
		s, err := nat.ParsePortSpec(spec)
		require.NoError(t, err)
		a.Ports = append(a.Ports, s)
	}
	ep, err := e.Attach(t.Context(), a)
	require.NoError(t, err)
	return ep
}

// Only the published ports of an endpoint answer. nft(8) lists both, and a new engine finds
// both.
func TestDeclaredNetwork(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2 | lab.PartNeighbour, Forwarding: true})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	labtest.EchoTCP(t, top.Backend2, "db", ":80")
	e := open(t, top.Host, engine.Options{})
	labtest.Reaches(t, top.Neighbour, "tcp", at(top.Backend1.V4, 80), "web") // before
	declare(t, e, top)
	ep := attachAt(t, e, "web", top.Backend1, "8080:80", ":53/udp")
	require.Equal(t, top.Gateway4, ep.Gateway())
	_, err := e.Attach(t.Context(), nat.EndpointSpec{Name: "next", Network: "inside6"})
	require.NoError(t, err)

	labtest.Reaches(t, top.Client, "tcp", at(top.Host.V4, 8080), "web")
	labtest.Reaches(t, top.Neighbour, "tcp", at(top.Host.V4, 8080), "web")
	labtest.Reaches(t, top.Backend2, "tcp", at(top.Host.V4, 8080), "web")
	labtest.Reaches(t, top.Backend2, "tcp", at(top.Backend1.V4, 80), "web")
	require.ErrorIs(t, labtest.NoAnswer(t, top.Neighbour, "tcp", at(top.Backend1.V4, 80)), os.ErrDeadlineExceeded)
	require.ErrorIs(t, labtest.NoAnswer(t, top.Neighbour, "tcp", at(top.Backend2.V6, 80)), os.ErrDeadlineExceeded)

	listing := nft(t, top.Host, "list", "table", "inet", "nftnat")
	for _, line := range []string{
		`172.30.0.0/24 comment "inside [gateway 172.30.0.1]"`, `172.30.0.2 comment "web"`, `8080 comment "web" : 172.30.0.2 . 80`,
		`fd00:30::/64 comment "inside6 [gateway fd00:30::1]"`, `comment "next"`,
	} {
		require.Contains(t, listing, line)
	}
	state, err := e.State(t.Context())
	require.NoError(t, err)
	require.NoError(t, e.Close())
	e = open(t, top.Host, engine.Options{})
	again, err := e.State(t.Context())
	require.NoError(t, err)
	require.Equal(t, state, again)
	require.Equal(t, listing, nft(t, top.Host, "list", "table", "inet", "nftnat"), "adopting changes nothing")

	// Saved and loaded by nft(8), it is the same.
	saved := nft(t, top.Host, "list", "ruleset")
	require.NoError(t, e.Close())
	load(t, top.Host, "flush ruleset")
	load(t, top.Host, saved)
	e = open(t, top.Host, engine.Options{})
	again, err = e.State(t.Context())
	require.NoError(t, err)
	require.Equal(t, state, again)

	for _, found := range must(e.Endpoints(t.Context())) {
		require.NoError(t, found.Release(t.Context()))
	}
	require.Empty(t, must(e.Mappings(t.Context())))
	require.ErrorIs(t, labtest.NoAnswer(t, top.Client, "tcp", at(top.Host.V4, 8080)), unix.ECONNREFUSED)
	require.NoError(t, e.RemoveNetwork(t.Context(), "inside"))
	require.NoError(t, e.RemoveNetwork(t.Context(), "inside6"))
	require.Empty(t, sortedElements(t, top.Host))
	labtest.Reaches(t, top.Neighbour, "tcp", at(top.Backend1.V4, 80), "web")
	require.NoError(t, e.Purge(t.Context()))
}

// Prefixes to which another route leads are refused, with the route.
func TestNetworkOverlapsRoutes(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	e := open(t, top.Host, engine.Options{})
	labtest.Exec(t, top.Host, "ip", "route", "add", "10.60.0.0/16", "via", top.Backend1.V4.String())
	labtest.Exec(t, top.Host, "ip", "addr", "add", "10.61.0.7/32", "dev", "lo")
	before := ruleset(t, top.Host)
	for prefix, want := range map[string]string{
		"10.60.0.0/16":  "prefix 10.60.0.0/16 is taken by the route 10.60.0.0/16 by 172.30.0.2: delete it, or choose another prefix",
		"10.0.0.0/8":    "prefix 10.0.0.0/8 is taken by the address 10.61.0.7 of lo",
		"10.61.0.0/24":  "prefix 10.61.0.0/24 is taken by the address 10.61.0.7 of lo",
		"192.0.2.0/25":  "prefix 192.0.2.0/25 is taken by the ",
		"172.30.0.0/25": "prefix 172.30.0.0/25 is taken by the subnet 172.30.0.0/24 of ",
		"fd00:30::/65":  "prefix fd00:30::/65 is taken by the subnet fd00:30::/64 of ",
		"2001:db8::/32": "prefix 2001:db8::/32 is taken by the ",
	} {
		n, err := nat.ParseNetwork("x", prefix, "")
		require.NoError(t, err)
		_, err = e.CreateNetwork(t.Context(), n)
		require.ErrorIs(t, err, nat.ErrConflict, prefix)
		require.ErrorContains(t, err, want)
	}
	require.Equal(t, before, ruleset(t, top.Host))
	for name, prefix := range map[string]string{"a": "10.62.0.0/24", "wide": "10.60.1.0/24", "b": "fd00:62::/64"} {
		n, err := nat.ParseNetwork(name, prefix, "")
		require.NoError(t, err)
		_, err = e.CreateNetwork(t.Context(), n) // its bridge may be made later
		require.NoError(t, err)
	}
	declare(t, e, top)
	require.NoError(t, e.Purge(t.Context()))
}
