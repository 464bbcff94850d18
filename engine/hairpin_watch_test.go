// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// What happens to a bridge, its ports and who is behind them is heard, neighbours and
// stations from joining on.
func TestBridgeWatch(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1, BridgeNF: true})
	k := bridgesOf(t, top.Host)
	w, err := watchBridges(k.sysctls.Namespace)
	require.NoError(t, err)
	defer w.close()
	bridge := linkNamed(t, top.Host, lab.HostBridge).Attrs().Index
	port := linkNamed(t, top.Host, lab.HostPort1).Attrs().Index
	mac := macOf(linkNamed(t, top.Backend1, lab.MachineLink))
	var all []bridgeEvent
	hears := func(want bridgeEvent) {
		t.Helper()
		awaitTrue(t, fmt.Sprintf("%+v", want), func() bool {
			events, lost := w.take()
			require.False(t, lost)
			all = append(all, events...)
			return slices.Contains(all, want)
		})
	}
	require.NoError(t, k.solicit(bridge, top.Backend1.V4, false))
	require.NoError(t, k.setHairpin(port, true))
	hears(bridgeEvent{kind: portChanged, link: port})
	require.False(t, slices.ContainsFunc(all, func(ev bridgeEvent) bool { return ev.kind >= neighbourChanged }), "%+v", all)

	require.NoError(t, w.join())
	labtest.Exec(t, top.Host, "ip", "neigh", "flush", "dev", lab.HostBridge)
	labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostBridge, "type", "bridge", "fdb_flush")
	require.NoError(t, k.solicit(bridge, top.Backend1.V4, false))
	hears(bridgeEvent{kind: neighbourChanged, link: bridge, addr: top.Backend1.V4, mac: mac})
	hears(bridgeEvent{kind: stationSeen, link: port, bridge: bridge, mac: mac})
	labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostBridge, "type", "bridge", "nf_call_ip6tables", "1")
	hears(bridgeEvent{kind: bridgeChanged, link: bridge, hooks: hooks{six: true}})
	all = nil
	labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostPort1, "nomaster")
	hears(bridgeEvent{kind: portLeft, link: port})
	all = nil
	labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostPort1, "master", lab.HostBridge)
	hears(bridgeEvent{kind: portChanged, link: port})
	all = nil
	labtest.Exec(t, top.Backend1, "ip", "link", "del", lab.MachineLink)
	hears(bridgeEvent{kind: portLeft, link: port})
}

// Events that nobody takes are not kept for ever, and that some are missing is known:
// those that were too many for the socket as well.
func TestBridgeWatchLoses(t *testing.T) {
	ns := labtest.NewNS(t, "bridges")
	n, err := hostnet.OpenNamespace(ns.Path())
	require.NoError(t, err)
	defer func() { require.NoError(t, n.Close()) }()
	socket, err := nl.SubscribeAt(n.Handle(), netns.None(), unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	require.NoError(t, err)
	require.NoError(t, socket.SetReceiveBufferSize(4096, false))
	var many strings.Builder
	for i := range 50 {
		fmt.Fprintf(&many, "link add br%d type bridge\n", i)
	}
	labtest.ExecInput(t, ns, many.String(), "ip", "-batch", "-")
	w := &bridgeWatch{socket: socket, heard: make(chan struct{}, 1)}
	w.listening.Go(w.listen)
	<-w.heard
	awaitTrue(t, "the loss", func() bool { _, lost := w.take(); return lost })
	labtest.Exec(t, ns, "ip", "link", "del", "br0")
	awaitTrue(t, "it to go on", func() bool { events, _ := w.take(); return len(events) != 0 })

	for range maxBridgeEvents {
		w.put(make([]bridgeEvent, 1), false)
	}
	events, lost := w.take()
	require.False(t, lost)
	require.Len(t, events, maxBridgeEvents)
	w.put(make([]bridgeEvent, maxBridgeEvents+1), false)
	w.put(make([]bridgeEvent, 1), false)
	events, lost = w.take()
	require.True(t, lost)
	require.Len(t, events, 1)
	w.close()
}

// An engine runs as well where nobody can watch, and one that is closed hears nothing.
func TestRunWithBridges(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1, BridgeNF: true})
	for _, watching := range []bool{true, false} {
		b := withBridges()
		e := b.open(t)
		n, err := hostnet.OpenNamespace(top.Host.Path())
		require.NoError(t, err)
		if watching {
			e.hairpins.watch = func() (*bridgeWatch, error) { return watchBridges(n) }
		} else {
			e.hairpins.watch = func() (*bridgeWatch, error) { return nil, unix.EMFILE }
		}
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() {
			if err := e.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		publish(t, e, "80->172.30.0.2:80")
		require.Equal(t, []string{"port1"}, b.bridges.on())
		if watching {
			awaitTrue(t, "the watch", func() bool {
				e.mu.Lock()
				defer e.mu.Unlock()
				return e.hairpins.watched
			})
		}
		require.NoError(t, e.Close())
		labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostPort1, "down")
		labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostPort1, "up")
		cancel()
		running.Wait()
		require.False(t, e.hairpins.watched)
		require.NoError(t, n.Close())
	}
}
