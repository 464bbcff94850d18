// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hairpin

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/nlwire"
)

// A follower receives changes of bridges, their ports and, from joining on, of neighbours
// and forwarding databases.
func TestFollower(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1, BridgeNF: true})
	k := bridgesOf(t, top.Host)
	m := newMachine()
	clear(m.bridges.links) // so that it does not join yet
	c := m.open()
	c.namespace = k.sysctls.Namespace
	f := c.Follow()
	require.NotNil(t, f)
	require.Same(t, f, c.follower)
	defer f.Stop()
	defer f.Close()
	bridge := linkNamed(t, top.Host, lab.HostBridge).Attrs().Index
	port := linkNamed(t, top.Host, lab.HostPort1).Attrs().Index
	mac := macOf(linkNamed(t, top.Backend1, lab.MachineLink))
	var all []event
	receives := func(want event) {
		t.Helper()
		awaitTrue(t, fmt.Sprintf("%+v", want), func() bool {
			ch := takeChanges(f)
			require.False(t, ch.lost)
			all = append(all, ch.events...)
			return slices.Contains(all, want)
		})
	}
	require.NoError(t, k.Solicit(bridge, top.Backend1.V4, false))
	require.NoError(t, k.SetHairpin(port, true))
	receives(event{kind: portChanged, link: port})
	require.False(t, slices.ContainsFunc(all, func(ev event) bool { return ev.kind >= neighbourChanged }), "%+v", all)

	require.NoError(t, f.join())
	labtest.Exec(t, top.Host, "ip", "neigh", "flush", "dev", lab.HostBridge)
	labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostBridge, "type", "bridge", "fdb_flush")
	require.NoError(t, k.Solicit(bridge, top.Backend1.V4, false))
	receives(event{kind: neighbourChanged, link: bridge, addr: top.Backend1.V4, mac: mac})
	receives(event{kind: addressLearned, link: port, bridge: bridge, mac: mac})
	labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostBridge, "type", "bridge", "nf_call_ip6tables", "1")
	receives(event{kind: bridgeChanged, link: bridge, hooks: Hooks{IPv6: true}})
	all = nil
	labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostPort1, "nomaster")
	receives(event{kind: portLeft, link: port})
	all = nil
	labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostPort1, "master", lab.HostBridge)
	receives(event{kind: portChanged, link: port})
	all = nil
	labtest.Exec(t, top.Backend1, "ip", "link", "del", lab.MachineLink)
	receives(event{kind: portLeft, link: port})
}

// A follower does not keep events for ever, and knows that some are missing, also those that
// were too many for the socket.
func TestFollowerLoses(t *testing.T) {
	ns := labtest.NewNS(t, "bridges")
	n, err := hostnet.OpenNamespace(ns.Path())
	require.NoError(t, err)
	defer func() { require.NoError(t, n.Close()) }()
	s, err := nlwire.Dial(nlwire.Config{Protocol: unix.NETLINK_ROUTE, NetNS: n.FD(), Groups: 1, ReceiveBuffer: 4096})
	require.NoError(t, err)
	var many strings.Builder
	for i := range 50 {
		fmt.Fprintf(&many, "link add br%d type bridge\n", i)
	}
	labtest.ExecInput(t, ns, many.String(), "ip", "-batch", "-")
	f := newFollower(nil, s)
	awaitTrue(t, "the loss", func() bool { return takeChanges(f).lost })
	labtest.Exec(t, ns, "ip", "link", "del", "br0")
	awaitTrue(t, "more events", func() bool { return len(takeChanges(f).events) != 0 })
	f.Close()

	for range maxEvents {
		f.add(make([]event, 1), false)
	}
	ch := takeChanges(f)
	require.False(t, ch.lost)
	require.Len(t, ch.events, maxEvents)
	f.add(make([]event, maxEvents+1), false)
	f.add(make([]event, 1), false)
	ch = takeChanges(f)
	require.True(t, ch.lost)
	require.Len(t, ch.events, 1)
}

// takeChanges returns the changes that are queued, without waiting.
func takeChanges(f *Follower) Changes {
	select {
	case ch := <-f.changes:
		return ch
	default:
		return Changes{}
	}
}
