// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// awaitHairpin waits until a port has the mode, or does not have it.
func awaitHairpin(t *testing.T, ns *lab.NS, port string, on bool) {
	t.Helper()
	await(t, "the hairpin mode of "+port, func() bool { return inHairpinMode(t, ns, port) == on })
}

// plug makes a port of the host's bridge that leads to a new interface of backend 1, with the
// link layer address, addresses and routes of the first one.
func plug(t *testing.T, top *lab.Topology, port, link string, mac string) {
	t.Helper()
	ip := func(ns *lab.NS, args ...string) { labtest.Exec(t, ns, "ip", args...) }
	ip(top.Host, "link", "add", port, "type", "veth", "peer", "name", "peer0")
	ip(top.Host, "link", "set", "peer0", "netns", top.Backend1.Path())
	ip(top.Host, "link", "set", port, "master", lab.HostBridge, "up")
	ip(top.Backend1, "link", "set", "peer0", "name", link, "address", mac)
	ip(top.Backend1, "addr", "add", top.Backend1.V4.String()+"/24", "dev", link)
	ip(top.Backend1, "addr", "add", top.Backend1.V6.String()+"/64", "dev", link)
	ip(top.Backend1, "link", "set", link, "up")
	ip(top.Backend1, "route", "add", "default", "via", top.Gateway4.String())
	ip(top.Backend1, "route", "add", "default", "via", top.Gateway6.String())
}

// unplug deletes backend 1's interface, and with it the bridge's port.
func unplug(t *testing.T, top *lab.Topology, link string) {
	t.Helper()
	labtest.Exec(t, top.Backend1, "ip", "link", "del", link)
}

const otherMAC = "02:00:00:00:30:02"

// A backend that does not exist when it is published is found when it comes: at once if an
// engine runs, and otherwise with the next change.
func TestHairpinModeOfLateBackend(t *testing.T) {
	labtest.LongOnly(t, "backends that come later")
	for _, running := range []bool{true, false} {
		top := newTopology(t, lab.Options{Parts: lab.PartBackend1, BridgeNF: true})
		unplug(t, top, lab.MachineLink)
		e, stop := runEngine(t, top.Host, engine.Options{})
		if !running {
			stop()
		}
		publish(t, e, "0.0.0.0:8080->172.30.0.2:80", "[::]:8080->[fd00:30::2]:80")
		require.Empty(t, hairpinRecords(t, top.Host))
		plug(t, top, "late0", lab.MachineLink, otherMAC)
		labtest.EchoTCP(t, top.Backend1, "web", ":80")
		if !running {
			// A bridge needs some time after its first port has come up.
			labtest.Reaches(t, top.Host, "tcp", "172.30.0.2:80", "web")
			require.False(t, inHairpinMode(t, top.Host, "late0"))
			publish(t, e, "0.0.0.0:8081->172.30.0.2:80")
		}
		awaitHairpin(t, top.Host, "late0", true)
		labtest.Reaches(t, top.Backend1, "tcp", "192.0.2.1:8080", "web")
		require.NoError(t, e.Purge(t.Context()))
		require.False(t, inHairpinMode(t, top.Host, "late0"))
	}
}

// When a backend moves to another port, the mode moves with it.
func TestHairpinModeFollows(t *testing.T) {
	labtest.LongOnly(t, "ports of bridges that go, come back and change names")
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1, BridgeNF: true})
	records := func(port string) {
		await(t, "the record of "+port, func() bool {
			r := hairpinRecords(t, top.Host)
			return len(r) == 2 && r[0] == "172.30.0.2 "+port && r[1] == "fd00:30::2 "+port
		})
	}
	e, _ := runEngine(t, top.Host, engine.Options{})
	publish(t, e, "0.0.0.0:8080->172.30.0.2:80", "[::]:8080->[fd00:30::2]:80")
	records(lab.HostPort1)

	// Another link with the same address. Only the bridge can notice it.
	h, err := top.Backend1.Handle()
	require.NoError(t, err)
	defer h.Close()
	link, err := h.LinkByName(lab.MachineLink)
	require.NoError(t, err)
	mac := link.Attrs().HardwareAddr.String()
	labtest.Exec(t, top.Backend1, "ip", "link", "set", lab.MachineLink, "down")
	plug(t, top, "port3", "eth3", mac)
	records("port3")
	awaitHairpin(t, top.Host, lab.HostPort1, false)
	require.True(t, inHairpinMode(t, top.Host, "port3"))
	unplug(t, top, lab.MachineLink)

	// A port that is deleted and made again with the same name has lost the mode.
	unplug(t, top, "eth3")
	await(t, "the records to go", func() bool { return len(hairpinRecords(t, top.Host)) == 0 })
	plug(t, top, "port3", "eth3", otherMAC)
	records("port3")
	awaitHairpin(t, top.Host, "port3", true)
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	reachesItself(t, top, "tcp")

	// Another name.
	for _, l := range [][]string{{"port3", "down"}, {"port3", "name", "port4"}, {"port4", "up"}} {
		labtest.Exec(t, top.Host, "ip", append([]string{"link", "set"}, l...)...)
	}
	records("port4")
	awaitHairpin(t, top.Host, "port4", true)

	// Out of the bridge and in again.
	labtest.Exec(t, top.Host, "ip", "link", "set", "port4", "nomaster")
	labtest.Exec(t, top.Host, "ip", "link", "set", "port4", "master", lab.HostBridge)
	labtest.Reaches(t, top.Host, "tcp", "172.30.0.2:80", "web")
	awaitHairpin(t, top.Host, "port4", true)
	// Both between two checks of the engine.
	for range 10 {
		labtest.ExecInput(t, top.Host, "link set port4 nomaster\nlink set port4 master "+lab.HostBridge+"\n", "ip", "-batch", "-")
		labtest.Reaches(t, top.Host, "tcp", "172.30.0.2:80", "web")
		awaitHairpin(t, top.Host, "port4", true)
	}
	records("port4")
	require.NoError(t, e.Purge(t.Context()))
	require.False(t, inHairpinMode(t, top.Host, "port4"))
}

// If another program turns the mode off, it stays off. Changes of the bridge by others are
// followed.
func TestHairpinModeSwitchedByOthers(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2, BridgeNF: true})
	e, _ := runEngine(t, top.Host, engine.Options{})
	publish(t, e, "8080->172.30.0.2:80", "8081->172.30.0.3:80")
	setHairpin(t, top.Host, lab.HostPort1, false)
	await(t, "the record to go", func() bool { return len(hairpinRecords(t, top.Host)) == 1 })
	publish(t, e, "8082->172.30.0.2:80")
	require.False(t, inHairpinMode(t, top.Host, lab.HostPort1))
	unpublish(t, e, "8080->172.30.0.2:80", "8082->172.30.0.2:80")
	publish(t, e, "8080->172.30.0.2:80")
	require.True(t, inHairpinMode(t, top.Host, lab.HostPort1), "published anew")
	require.NoError(t, e.Purge(t.Context()))

	// The kernel sends notifications about the bridge's setting, but not about the namespace's.
	require.NoError(t, top.SetBridgeNF(false))
	e, _ = runEngine(t, top.Host, engine.Options{})
	publish(t, e, "8080->172.30.0.2:80")
	require.False(t, inHairpinMode(t, top.Host, lab.HostPort1))
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	labtest.Reaches(t, top.Host, "tcp", "172.30.0.2:80", "web")
	labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostBridge, "type", "bridge", "nf_call_iptables", "1")
	awaitHairpin(t, top.Host, lab.HostPort1, true)
	require.NoError(t, e.Purge(t.Context()))
	require.False(t, inHairpinMode(t, top.Host, lab.HostPort1))
}

// An engine that runs without a bridge notices the first one.
func TestHairpinModeOfFirstBridge(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1, BridgeNF: true})
	unplug(t, top, lab.MachineLink)
	labtest.Exec(t, top.Host, "ip", "link", "del", lab.HostBridge)
	e, _ := runEngine(t, top.Host, engine.Options{})
	publish(t, e, "8080->172.30.0.2:80", "8080->172.30.0.2:80/udp")
	labtest.Exec(t, top.Host, "ip", "link", "add", lab.HostBridge, "type", "bridge")
	labtest.Exec(t, top.Host, "ip", "addr", "add", "172.30.0.1/24", "dev", lab.HostBridge)
	labtest.Exec(t, top.Host, "ip", "addr", "add", "fd00:30::1/64", "dev", lab.HostBridge)
	labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostBridge, "up")
	plug(t, top, "first0", lab.MachineLink, otherMAC)
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	labtest.Reaches(t, top.Host, "tcp", "172.30.0.2:80", "web")
	awaitHairpin(t, top.Host, "first0", true)
	require.NoError(t, e.Purge(t.Context()))
}

// Mappings with a time-out end by themselves, and with the last one the mode.
func TestHairpinModeOfLease(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1, BridgeNF: true})
	s := newTestbed(t, top.Host)
	s.succeed(t, "add tcp 8080 172.30.0.2:80 --ttl 1h")
	require.True(t, inHairpinMode(t, top.Host, lab.HostPort1))
	s.succeed(t, "add tcp 8080 172.30.0.2:80 --replace --ttl 1s")
	awaitHairpin(t, top.Host, lab.HostPort1, false)
	require.Empty(t, hairpinRecords(t, top.Host))
}

// Nothing notifies of the sysctl that has bridged frames pass netfilter: it is looked at
// once a second.
func TestHairpinModeFollowsHooks(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	e, _ := runEngine(t, top.Host, engine.Options{})
	publish(t, e, "0.0.0.0:8080->172.30.0.2:80", "[::]:8080->[fd00:30::2]:80")
	require.False(t, inHairpinMode(t, top.Host, lab.HostPort1))
	for range 2 {
		require.NoError(t, top.SetBridgeNF(true))
		awaitHairpin(t, top.Host, lab.HostPort1, true)
		reachesItself(t, top, "tcp")
		require.NoError(t, top.SetBridgeNF(false))
		awaitHairpin(t, top.Host, lab.HostPort1, false)
		reachesItself(t, top, "tcp")
	}
}
