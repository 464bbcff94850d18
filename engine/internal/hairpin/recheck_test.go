// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hairpin

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// eventsOf are the events of a host's link layer address.
func eventsOf(addr string, port int) []Event {
	mac := HardwareAddr{2, byte(port)}
	return []Event{
		{kind: addressLearned, bridge: fakeBridge, link: port, mac: mac},
		{kind: neighbourChanged, link: fakeBridge, addr: netip.MustParseAddr(addr), mac: mac},
	}
}

// An event about what is known costs nothing; what is not known is looked up.
func TestFollow(t *testing.T) {
	m := newMachine()
	c := m.open()
	m.publish(t, c, "172.30.0.2", "172.30.0.77")
	m.bridges.asked = map[string]int{}
	c.handle(slices.Concat(eventsOf("172.30.0.3", fakePort2)[1:], []Event{
		{kind: portChanged, link: fakePort2}, {kind: bridgeChanged, link: fakeBridge}, {kind: bridgeChanged, link: 99},
	}, eventsOf("172.30.0.2", fakePort1)))
	require.Empty(t, m.bridges.asked)

	// The missing backend: an address is new there, and it is asked.
	m.bridges.attach("172.30.0.77", fakePort2)
	c.handle(eventsOf("172.30.0.77", fakePort2)[:1])
	require.Equal(t, 1, m.bridges.asked["solicit"])
	require.Equal(t, []string{"port1"}, m.bridges.on())
	c.handle(eventsOf("172.30.0.77", fakePort2)[1:])
	require.Equal(t, []string{"port1", "port2"}, m.bridges.on())

	// Moved, renamed, gone.
	m.bridges.seen[HardwareAddr{2, fakePort1}] = fakePort2
	c.handle([]Event{{kind: addressLearned, bridge: fakeBridge, link: fakePort2, mac: HardwareAddr{2, fakePort1}}})
	require.Equal(t, []string{"port2"}, m.bridges.on())
	m.bridges.change(fakePort2, func(l *Link) { l.Name = "tap2" })
	c.handle([]Event{{kind: portChanged, link: fakePort2}})
	require.Equal(t, []string{"172.30.0.2 tap2", "172.30.0.77 tap2"}, m.recordsOf(t, c))
	require.Equal(t, []string{"tap2"}, m.bridges.on())
	delete(m.bridges.links, fakePort2)
	c.handle([]Event{{kind: portChanged, link: fakePort2}})
	require.Empty(t, m.recordsOf(t, c))

	// Everything after events were lost.
	m.bridges.links[14] = Link{Index: 14, Name: "port9", Kind: "veth", Bridge: fakeBridge}
	m.bridges.seen[HardwareAddr{2, fakePort1}], m.bridges.seen[HardwareAddr{2, fakePort2}] = 14, fakePort1
	c.recheckAll(func() error { return nil })
	require.Equal(t, []string{"172.30.0.2 port9", "172.30.0.77 port1"}, m.recordsOf(t, c))
	require.Equal(t, []string{"port1", "port9"}, m.bridges.on())
}

// A port that takes the name of a deleted one is another: its mode is somebody else's.
func TestFollowAnotherPort(t *testing.T) {
	m := newMachine()
	c := m.open()
	m.publish(t, c, "172.30.0.2")
	delete(m.bridges.links, fakePort1)
	m.bridges.links[14] = Link{Index: 14, Name: "port1", Kind: "veth", Bridge: fakeBridge, Hairpin: true}
	m.bridges.seen[HardwareAddr{2, fakePort1}] = 14
	c.handle([]Event{{kind: portChanged, link: fakePort1}})
	require.Empty(t, m.recordsOf(t, c))
	c.Purge()
	require.Equal(t, []string{"port1"}, m.bridges.on())
}

// A port that has left its bridge and is back before the recheck gets its mode again; one
// that somebody switched off stays off.
func TestFollowPortThatIsBack(t *testing.T) {
	m := newMachine()
	c := m.open()
	m.publish(t, c, "172.30.0.2")
	off := func(l *Link) { l.Hairpin = false }
	m.bridges.change(fakePort1, off)
	c.handle([]Event{{kind: portLeft, link: fakePort1}, {kind: portChanged, link: fakePort1}})
	require.Equal(t, []string{"port1"}, m.bridges.on())
	require.Equal(t, []string{"172.30.0.2 port1"}, m.recordsOf(t, c))
	c.handle([]Event{{kind: portLeft, link: fakePort1}})
	require.Equal(t, []string{"172.30.0.2 port1"}, m.recordsOf(t, c), "it has the mode from after that")
	m.bridges.change(fakePort1, off)
	c.handle([]Event{{kind: portChanged, link: fakePort1}})
	require.Empty(t, m.bridges.on())
	c.Purge()
	require.Empty(t, m.bridges.on())
}

// While no record can be written no port is switched.
func TestFollowWithoutRecord(t *testing.T) {
	m := newMachine()
	c := m.open()
	delete(m.bridges.hosts, netip.MustParseAddr("172.30.0.2"))
	m.publish(t, c, "172.30.0.2")
	m.bridges.attach("172.30.0.2", fakePort1)
	require.NoError(t, m.bridges.Solicit(fakeBridge, netip.MustParseAddr("172.30.0.2"), false))
	m.noTable = true
	c.handle(eventsOf("172.30.0.2", fakePort1))
	require.Empty(t, m.bridges.on())
	m.noTable, m.refused = false, errors.New("no")
	c.handle(eventsOf("172.30.0.2", fakePort1))
	require.Empty(t, m.bridges.on())
	m.refused = nil
	m.publish(t, c, "172.30.0.2")
	require.Equal(t, []string{"port1"}, m.bridges.on())
	require.Equal(t, []string{"172.30.0.2 port1"}, m.recordsOf(t, c))
}
