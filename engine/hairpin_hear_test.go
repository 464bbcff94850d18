// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// heardOf is what is heard of a host's link layer address.
func heardOf(addr string, port int) []bridgeEvent {
	mac := hardwareAddr{2, byte(port)}
	return []bridgeEvent{
		{kind: stationSeen, bridge: fakeBridge, link: port, mac: mac},
		{kind: neighbourChanged, link: fakeBridge, addr: netip.MustParseAddr(addr), mac: mac},
	}
}

// What is known already costs nothing to hear; what is not is looked at.
func TestHearBridges(t *testing.T) {
	b := withBridges()
	e := b.open(t)
	publish(t, e, "80->172.30.0.2:80", "81->172.30.0.77:80")
	b.bridges.asked = map[string]int{}
	e.hearBridges(slices.Concat(heardOf("172.30.0.3", fakePort2)[1:], []bridgeEvent{
		{kind: portChanged, link: fakePort2}, {kind: bridgeChanged, link: fakeBridge}, {kind: bridgeChanged, link: 99},
	}, heardOf("172.30.0.2", fakePort1)))
	require.Empty(t, b.bridges.asked)

	// The one that was missing: somebody has come, and is asked.
	b.bridges.attach("172.30.0.77", fakePort2)
	e.hearBridges(heardOf("172.30.0.77", fakePort2)[:1])
	require.Equal(t, 1, b.bridges.asked["solicit"])
	require.Equal(t, []string{"port1"}, b.bridges.on())
	e.hearBridges(heardOf("172.30.0.77", fakePort2)[1:])
	require.Equal(t, []string{"port1", "port2"}, b.bridges.on())

	// Moved, renamed, gone.
	b.bridges.seen[hardwareAddr{2, fakePort1}] = fakePort2
	e.hearBridges([]bridgeEvent{{kind: stationSeen, bridge: fakeBridge, link: fakePort2, mac: hardwareAddr{2, fakePort1}}})
	require.Equal(t, []string{"port2"}, b.bridges.on())
	b.bridges.change(fakePort2, func(l *bridgeLink) { l.name = "tap2" })
	e.hearBridges([]bridgeEvent{{kind: portChanged, link: fakePort2}})
	require.Equal(t, []string{"172.30.0.2 tap2", "172.30.0.77 tap2"}, recordsOf(t, b, e))
	require.Equal(t, []string{"tap2"}, b.bridges.on())
	delete(b.bridges.links, fakePort2)
	e.hearBridges([]bridgeEvent{{kind: portChanged, link: fakePort2}})
	require.Empty(t, recordsOf(t, b, e))

	// All of it after what was heard is lost.
	b.bridges.links[14] = bridgeLink{index: 14, name: "port9", kind: "veth", bridge: fakeBridge}
	b.bridges.seen[hardwareAddr{2, fakePort1}], b.bridges.seen[hardwareAddr{2, fakePort2}] = 14, fakePort1
	ports, err := b.bridges.ports()
	require.NoError(t, err)
	require.NoError(t, e.lookAtAll(ports))
	require.Equal(t, []string{"172.30.0.2 port9", "172.30.0.77 port1"}, recordsOf(t, b, e))
	require.Equal(t, []string{"port1", "port9"}, b.bridges.on())
}

// A port that takes the name of one that has gone is another: what mode it has is
// somebody else's.
func TestHearBridgesOfAnotherPort(t *testing.T) {
	b := withBridges()
	e := b.open(t)
	publish(t, e, "80->172.30.0.2:80")
	delete(b.bridges.links, fakePort1)
	b.bridges.links[14] = bridgeLink{index: 14, name: "port1", kind: "veth", bridge: fakeBridge, hairpin: true}
	b.bridges.seen[hardwareAddr{2, fakePort1}] = 14
	e.hearBridges([]bridgeEvent{{kind: portChanged, link: fakePort1}})
	require.Empty(t, recordsOf(t, b, e))
	require.NoError(t, e.Purge(t.Context()))
	require.Equal(t, []string{"port1"}, b.bridges.on())
}

// A port that has left its bridge and is back before that is heard has lost its mode to
// nobody, and one that is switched off by somebody stays off.
func TestHearBridgesOfPortThatIsBack(t *testing.T) {
	b := withBridges()
	e := b.open(t)
	publish(t, e, "80->172.30.0.2:80")
	off := func(l *bridgeLink) { l.hairpin = false }
	b.bridges.change(fakePort1, off)
	e.hearBridges([]bridgeEvent{{kind: portLeft, link: fakePort1}, {kind: portChanged, link: fakePort1}})
	require.Equal(t, []string{"port1"}, b.bridges.on())
	require.Equal(t, []string{"172.30.0.2 port1"}, recordsOf(t, b, e))
	e.hearBridges([]bridgeEvent{{kind: portLeft, link: fakePort1}})
	require.Equal(t, []string{"172.30.0.2 port1"}, recordsOf(t, b, e), "it has the mode from after that")
	b.bridges.change(fakePort1, off)
	e.hearBridges([]bridgeEvent{{kind: portChanged, link: fakePort1}})
	require.Empty(t, b.bridges.on())
	require.NoError(t, e.Purge(t.Context()))
	require.Empty(t, b.bridges.on())
}

// The record cannot be written: no port is switched.
func TestHearBridgesWithoutRecord(t *testing.T) {
	b := withBridges()
	e := b.open(t)
	delete(b.bridges.hosts, netip.MustParseAddr("172.30.0.2"))
	publish(t, e, "80->172.30.0.2:80")
	b.bridges.attach("172.30.0.2", fakePort1)
	require.NoError(t, b.bridges.solicit(fakeBridge, netip.MustParseAddr("172.30.0.2"), false))
	require.NoError(t, b.kernel.Conn().DeleteTable(DefaultTable))
	e.hearBridges(heardOf("172.30.0.2", fakePort1))
	require.Empty(t, b.bridges.on())
	publish(t, e, "81->172.30.0.2:80")
	require.Equal(t, []string{"port1"}, b.bridges.on())
	require.Equal(t, []string{"172.30.0.2 port1"}, recordsOf(t, b, e))
}
