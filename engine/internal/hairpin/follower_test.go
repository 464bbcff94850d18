// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hairpin

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// A watch of the host yields events of bridges, their ports and, once it was asked for them,
// of neighbours and forwarding databases.
func TestEvents(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1, BridgeNF: true})
	k := bridgesOf(t, top.Host)
	w, err := hostnet.Watch(k.sysctls.Namespace, ParseEvent)
	require.NoError(t, err)
	defer w.Close()
	bridge := linkNamed(t, top.Host, lab.HostBridge).Attrs().Index
	port := linkNamed(t, top.Host, lab.HostPort1).Attrs().Index
	mac := macOf(linkNamed(t, top.Backend1, lab.MachineLink))
	var all []Event
	receives := func(want Event) {
		t.Helper()
		awaitTrue(t, fmt.Sprintf("%+v", want), func() bool {
			select {
			case ch := <-w.Changes():
				require.False(t, ch.Lost)
				all = append(all, ch.Events...)
			default:
			}
			return slices.Contains(all, want)
		})
	}
	require.NoError(t, k.Solicit(bridge, top.Backend1.V4, false))
	require.NoError(t, k.SetHairpin(port, true))
	receives(Event{kind: portChanged, link: port})
	require.False(t, slices.ContainsFunc(all, func(ev Event) bool { return ev.kind >= neighbourChanged }), "%+v", all)

	require.NoError(t, w.WatchNeighbours())
	labtest.Exec(t, top.Host, "ip", "neigh", "flush", "dev", lab.HostBridge)
	labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostBridge, "type", "bridge", "fdb_flush")
	require.NoError(t, k.Solicit(bridge, top.Backend1.V4, false))
	receives(Event{kind: neighbourChanged, link: bridge, addr: top.Backend1.V4, mac: mac})
	receives(Event{kind: addressLearned, link: port, bridge: bridge, mac: mac})
	labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostBridge, "type", "bridge", "nf_call_ip6tables", "1")
	receives(Event{kind: bridgeChanged, link: bridge, hooks: Hooks{IPv6: true}})
	all = nil
	labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostPort1, "nomaster")
	receives(Event{kind: portLeft, link: port})
	all = nil
	labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostPort1, "master", lab.HostBridge)
	receives(Event{kind: portChanged, link: port})
	all = nil
	labtest.Exec(t, top.Backend1, "ip", "link", "del", lab.MachineLink)
	receives(Event{kind: portLeft, link: port})
}

// A follower subscribes to neighbours once there is a bridge with a port, and looks at all
// bridges again when events are lost.
func TestFollower(t *testing.T) {
	m := newMachine()
	clear(m.bridges.links)
	c := m.open()
	joined := 0
	f := c.Follow(func() error { joined++; return nil })
	require.Same(t, f, c.follower)
	require.Zero(t, joined)
	f.Recheck([]Event{{kind: neighbourChanged}}, false)
	require.Zero(t, joined)
	m.bridges.links = newMachine().bridges.links
	f.Recheck(nil, true)
	require.Equal(t, 1, joined)
	f.Recheck([]Event{{kind: portChanged}}, false)
	f.Recheck(nil, true)
	require.Equal(t, 1, joined)
	f.Stop()
	require.Nil(t, c.follower)
}

// Frames passed netfilter for a moment, in which a search switched a port; Poll looks later, and
// finds the setting as it was.
func TestPollAfterMoment(t *testing.T) {
	m := newMachine()
	m.bridges.hooks = Hooks{}
	c := m.open()
	m.publish(t, c, "172.30.0.2")
	f := c.Follow(func() error { return nil })
	backend := netip.MustParseAddr("172.30.0.2")
	var routes hostnet.RouteMap
	routes.Set(backend, &hostnet.Route{Bridge: fakeBridge})
	c.FollowRoutes(routes)
	require.False(t, f.Poll())
	require.Empty(t, m.bridges.on())

	require.NoError(t, m.bridges.Solicit(fakeBridge, backend, false))
	m.bridges.hooks = Hooks{IPv4: true}
	f.Recheck(nil, true)
	require.Equal(t, []string{"port1"}, m.bridges.on())
	m.bridges.hooks = Hooks{}
	require.True(t, f.Poll())
	c.FollowRoutes(routes)
	require.Empty(t, m.bridges.on())
	require.False(t, f.Poll())
}
