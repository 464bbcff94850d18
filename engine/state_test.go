// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

func changeLines(cs []nat.Change) (lines []string) {
	for _, c := range cs {
		lines = append(lines, c.String())
	}
	return lines
}

// A state, wherever it is applied, makes the same table.
func TestStateApplies(t *testing.T) {
	e, b := openFake(t)
	create(t, e, "inside", inside4)
	_, err := e.CreateNetwork(t.Context(), nat.Network{Name: "six", Prefix: netip.MustParsePrefix(inside6), NoGuard: true, NoMasquerade: true})
	require.NoError(t, err)
	attach(t, e, "web", "inside", "80", "8000-8009:9000-9009/udp", local4+":443:443")
	attach(t, e, "gone", "inside")
	attach(t, e, "db", "six", "53:53/udp")
	_, err = e.Detach(t.Context(), "gone")
	require.NoError(t, err)
	lease := leaseFor(t, b, "90->172.30.0.2:90", time.Minute)
	lease.Name = "web"
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, lease, nattest.Mapping(t, "100->10.9.0.2:100"))
	require.NoError(t, err)
	s, err := e.State(t.Context())
	require.NoError(t, err)
	require.Equal(t, []nat.Mapping{nattest.Mapping(t, "100->10.9.0.2:100"), lease}, []nat.Mapping{s.Mappings[1], s.Mappings[0]}, "what a spec cannot say is a mapping")
	require.Equal(t, "172.30.0.4", s.Networks[0].Next.String())

	lines, err := e.DiffState(t.Context(), s)
	require.NoError(t, err)
	require.Empty(t, lines)
	before := b.kernel.Dump()
	lines, err = e.ApplyState(t.Context(), s)
	require.NoError(t, err)
	require.Empty(t, lines)
	require.Equal(t, before, b.kernel.Dump())

	fresh := newTestbed()
	other := fresh.open(t)
	lines, err = other.ApplyState(t.Context(), s)
	require.NoError(t, err)
	require.Equal(t, []string{
		"+ network inside 172.30.0.0/24 gateway 172.30.0.1",
		"+ network six fd00:30::/64 gateway fd00:30::1 no-masquerade no-guard",
		"+ endpoint db fd00:30::2",
		"+ endpoint web 172.30.0.2",
		"+ 90->172.30.0.2:90",
		"+ 100->10.9.0.2:100",
		"+ 49153->172.30.0.2:80",
		"+ " + local4 + ":443->172.30.0.2:443",
		"+ 53->[fd00:30::2]:53/udp",
		"+ 8000-8009->172.30.0.2:9000-9009/udp",
	}, changeLines(lines))
	require.Equal(t, withoutTimeouts(before), withoutTimeouts(fresh.kernel.Dump()))
	requireConsistent(t, fresh, other)

	lines, err = other.ApplyState(t.Context(), nat.State{})
	require.NoError(t, err)
	require.Len(t, lines, 10)
	require.Empty(t, elementsIn(fresh.kernel.Dump()))
	requireConsistent(t, fresh, other)
}

func TestStateChanges(t *testing.T) {
	e, b := openFake(t)
	create(t, e, "inside", inside4)
	create(t, e, "old", "10.78.0.0/24")
	web := attach(t, e, "web", "inside", "80:80", "81:91")
	attach(t, e, "moves", "inside", "82:82")
	attach(t, e, "goes", "old", "83:83")
	s, err := e.State(t.Context())
	require.NoError(t, err)
	s.Networks = []nat.Network{{Name: "inside", Prefix: netip.MustParsePrefix(inside4), NoGuard: true}, netOf(t, "new", "10.77.0.0/24")}
	moves := endpointSpec(t, "moves", "new", "82:82")
	moves.Address = netip.MustParseAddr("10.77.0.9")
	s.Endpoints = []nat.EndpointSpec{moves, s.Endpoints[2]}
	s.Endpoints[1].Ports = s.Endpoints[1].Ports[:1]
	lines, err := e.DiffState(t.Context(), s)
	require.NoError(t, err)
	want := []string{
		"~ network inside 172.30.0.0/24 gateway 172.30.0.1 => network inside 172.30.0.0/24 gateway 172.30.0.1 no-guard",
		"+ network new 10.77.0.0/24 gateway 10.77.0.1",
		"- network old 10.78.0.0/24 gateway 10.78.0.1",
		"- endpoint goes 10.78.0.2",
		"~ endpoint moves 172.30.0.3 => endpoint moves 10.77.0.9",
		"~ 82->172.30.0.3:82 => 82->10.77.0.9:82",
		"- 81->172.30.0.2:91",
		"- 83->10.78.0.2:83",
	}
	require.Equal(t, want, changeLines(lines))
	lines, err = e.ApplyState(t.Context(), s)
	require.NoError(t, err)
	require.Equal(t, want, changeLines(lines))
	requireConsistent(t, b, e)
	require.Equal(t, []string{"80->172.30.0.2:80 web"}, portsOfEndpoint(web), "it is the same endpoint")
	require.Equal(t, []string{
		`cursors4 { 10.77.0.2 comment "new" }`,
		`cursors4 { 172.30.0.4 comment "inside" }`,
		`guarded4 { 10.77.0.0/24 comment "new" }`,
		`leases4 { 10.77.0.9 comment "moves" }`,
		`leases4 { 172.30.0.2 comment "web" }`,
		`masqueraded4 { 10.77.0.0/24 comment "new" }`,
		`masqueraded4 { 172.30.0.0/24 comment "inside" }`,
		`networks4 { 10.77.0.0/24 comment "new [gateway 10.77.0.1]" }`,
		`networks4 { 172.30.0.0/24 comment "inside [gateway 172.30.0.1]" }`,
	}, recordsIn(b.kernel.Dump()))
	e = b.open(t)
	requireConsistent(t, b, e)
}

// Only the cursor differing, it is set, though there is no line to show.
func TestStateSetsCursor(t *testing.T) {
	e, b := openFake(t)
	create(t, e, "inside", inside4)
	s, err := e.State(t.Context())
	require.NoError(t, err)
	s.Networks[0].Next = netip.MustParseAddr("172.30.0.77")
	lines, err := e.ApplyState(t.Context(), s)
	require.NoError(t, err)
	require.Empty(t, lines)
	requireConsistent(t, b, e)
	require.Equal(t, "172.30.0.77/24", attach(t, b.open(t), "web", "").Address().String())
}

func TestStateRefused(t *testing.T) {
	e, b := openFake(t)
	create(t, e, "inside", inside4)
	attach(t, e, "web", "inside", "80:80")
	before := b.kernel.Dump()
	inside := netOf(t, "inside", inside4)
	at := func(name, network, addr string, specs ...string) nat.EndpointSpec {
		a := endpointSpec(t, name, network, specs...)
		if addr != "" {
			a.Address = netip.MustParseAddr(addr)
		}
		return a
	}
	for want, s := range map[string]nat.State{
		"there are two of that name":                    {Networks: []nat.Network{inside, netOf(t, "inside", "10.1.0.0/24")}},
		"it overlaps network inside 172.30.0.0/24":      {Networks: []nat.Network{inside, netOf(t, "b", "172.30.0.0/30")}},
		"no prefix is given":                            {Networks: []nat.Network{{Name: "x"}}},
		"what is applied needs an address":              {Networks: []nat.Network{inside}, Endpoints: []nat.EndpointSpec{at("a", "inside", "")}},
		"there is no network none":                      {Networks: []nat.Network{inside}, Endpoints: []nat.EndpointSpec{at("a", "none", "172.30.0.2")}},
		"its address 10.0.0.1 is not in its network":    {Networks: []nat.Network{inside}, Endpoints: []nat.EndpointSpec{at("a", "inside", "10.0.0.1")}},
		"its address 10.0.0.2 is not in its network":    {Networks: []nat.Network{inside}, Endpoints: []nat.EndpointSpec{at("a", "", "10.0.0.2")}},
		"its address 172.30.0.1 is another's, or none":  {Networks: []nat.Network{inside}, Endpoints: []nat.EndpointSpec{at("a", "", "172.30.0.1")}},
		"its address 172.30.0.2 is another's, or none":  {Networks: []nat.Network{inside}, Endpoints: []nat.EndpointSpec{at("a", "", "172.30.0.2"), at("b", "", "172.30.0.2")}},
		"invalid endpoint \"a\": there are two of that": {Networks: []nat.Network{inside}, Endpoints: []nat.EndpointSpec{at("a", "", "172.30.0.2"), at("a", "", "172.30.0.3")}},
		"needs a frontend port, and 80 has none":        {Networks: []nat.Network{inside}, Endpoints: []nat.EndpointSpec{at("a", "", "172.30.0.2", "80")}},
		"overlap: both claim tcp port 80":               {Networks: []nat.Network{inside}, Endpoints: []nat.EndpointSpec{at("a", "", "172.30.0.2", "80:80")}, Mappings: mapAll(t, "80->10.9.0.2:80")},
	} {
		_, err := e.ApplyState(t.Context(), s)
		require.ErrorIs(t, err, nat.ErrInvalid, want)
		require.ErrorContains(t, err, want)
		_, err = e.DiffState(t.Context(), s)
		require.ErrorContains(t, err, want)
		require.Equal(t, before, b.kernel.Dump(), want)
		requireConsistent(t, b, e)
	}
	_, err := e.ApplyState(t.Context(), nat.State{Networks: []nat.Network{inside, netOf(t, "b", "10.9.1.0/24")}})
	require.ErrorIs(t, err, nat.ErrConflict)
	cause := errors.New("no")
	b.kernel.FailNext("Update", cause)
	_, err = e.ApplyState(t.Context(), nat.State{Networks: []nat.Network{netOf(t, "b", "10.1.0.0/24")}, Mappings: mapAll(t, "80->10.9.0.2:80")})
	require.ErrorIs(t, err, cause)
	require.Equal(t, before, b.kernel.Dump())
	requireConsistent(t, b, e)
}
