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

// A watch tells of bridges, their ports and, from joining on, of neighbours and stations.
func TestWatch(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1, BridgeNF: true})
	k := bridgesOf(t, top.Host)
	w, err := openWatch(k.sysctls.Namespace)
	require.NoError(t, err)
	defer w.close()
	bridge := linkNamed(t, top.Host, lab.HostBridge).Attrs().Index
	port := linkNamed(t, top.Host, lab.HostPort1).Attrs().Index
	mac := macOf(linkNamed(t, top.Backend1, lab.MachineLink))
	var all []event
	receives := func(want event) {
		t.Helper()
		awaitTrue(t, fmt.Sprintf("%+v", want), func() bool {
			ch := takeChanges(w)
			require.False(t, ch.lost)
			all = append(all, ch.events...)
			return slices.Contains(all, want)
		})
	}
	require.NoError(t, k.Solicit(bridge, top.Backend1.V4, false))
	require.NoError(t, k.SetHairpin(port, true))
	receives(event{kind: portChanged, link: port})
	require.False(t, slices.ContainsFunc(all, func(ev event) bool { return ev.kind >= neighbourChanged }), "%+v", all)

	require.NoError(t, w.join())
	labtest.Exec(t, top.Host, "ip", "neigh", "flush", "dev", lab.HostBridge)
	labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostBridge, "type", "bridge", "fdb_flush")
	require.NoError(t, k.Solicit(bridge, top.Backend1.V4, false))
	receives(event{kind: neighbourChanged, link: bridge, addr: top.Backend1.V4, mac: mac})
	receives(event{kind: stationSeen, link: port, bridge: bridge, mac: mac})
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

// A watch does not keep events for ever, and knows that some are missing, also those that
// were too many for the socket.
func TestWatchLoses(t *testing.T) {
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
	w := &watch{socket: s, changes: make(chan Changes, 1)}
	w.listening.Go(w.listen)
	awaitTrue(t, "the loss", func() bool { return takeChanges(w).lost })
	labtest.Exec(t, ns, "ip", "link", "del", "br0")
	awaitTrue(t, "more events", func() bool { return len(takeChanges(w).events) != 0 })
	w.close()

	for range maxEvents {
		w.add(make([]event, 1), false)
	}
	ch := takeChanges(w)
	require.False(t, ch.lost)
	require.Len(t, ch.events, maxEvents)
	w.add(make([]event, maxEvents+1), false)
	w.add(make([]event, 1), false)
	ch = takeChanges(w)
	require.True(t, ch.lost)
	require.Len(t, ch.events, 1)
}

// takeChanges returns what there is, without waiting.
func takeChanges(w *watch) Changes {
	select {
	case ch := <-w.changes:
		return ch
	default:
		return Changes{}
	}
}
