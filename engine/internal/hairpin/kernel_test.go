// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hairpin

import (
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// bridgesOf opens the kernel's bridges in a namespace that is not the test's own.
func bridgesOf(tb testing.TB, ns *lab.NS) *kernel {
	tb.Helper()
	n, err := hostnet.OpenNamespace(ns.Path())
	require.NoError(tb, err)
	k, err := openKernel(hostnet.Sysctls{Namespace: n})
	require.NoError(tb, err)
	tb.Cleanup(func() {
		require.NoError(tb, k.Close())
		require.NoError(tb, n.Close())
	})
	return k
}

// linkNamed finds an interface by other means than those that are tested.
func linkNamed(tb testing.TB, ns *lab.NS, name string) netlink.Link {
	tb.Helper()
	h, err := ns.Handle()
	require.NoError(tb, err)
	defer h.Close()
	l, err := h.LinkByName(name)
	require.NoError(tb, err)
	return l
}

func macOf(l netlink.Link) HardwareAddr { return HardwareAddr(l.Attrs().HardwareAddr) }

func TestKernelBridges(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2, BridgeNF: true})
	k := bridgesOf(t, top.Host)
	bridge, port := linkNamed(t, top.Host, lab.HostBridge), linkNamed(t, top.Host, lab.HostPort1)
	want := Link{Index: port.Attrs().Index, Name: lab.HostPort1, Kind: "veth", Bridge: bridge.Attrs().Index}

	got, err := k.Link(want.Index)
	require.NoError(t, err)
	require.Equal(t, want, got)
	for _, on := range []bool{true, false} {
		require.NoError(t, k.SetHairpin(want.Index, on))
		want.Hairpin = on
		got, err = k.Link(want.Index)
		require.NoError(t, err)
		require.Equal(t, want, got)
		// The same, as others tell it.
		require.Equal(t, on, inHairpinMode(t, top.Host, lab.HostPort1))
	}
	other, err := k.Link(linkNamed(t, top.Host, lab.HostPort2).Attrs().Index)
	require.NoError(t, err)
	require.False(t, other.Hairpin)

	require.NoError(t, k.SetHairpin(want.Index, true))
	ports, err := k.Ports()
	require.NoError(t, err)
	want.Hairpin, want.Kind = true, ""
	other.Kind = ""
	require.ElementsMatch(t, []Link{want, other}, ports)
	// An interface that is no port, and one that is not there.
	lan := linkNamed(t, top.Host, lab.HostLAN).Attrs().Index
	got, err = k.Link(lan)
	require.NoError(t, err)
	require.Equal(t, Link{Index: lan, Name: lab.HostLAN, Kind: "veth"}, got)
	require.True(t, isGone(k.SetHairpin(lan, true)))
	_, err = k.Link(9999)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.True(t, isGone(k.SetHairpin(9999, true)))
}

func TestKernelBridgeHooks(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1, BridgeNF: true})
	k := bridgesOf(t, top.Host)
	for _, h := range []Hooks{{true, true}, {false, true}, {true, false}, {}} {
		require.NoError(t, top.Host.Sysctl(bridgeHooks4, digit(h.IPv4)))
		require.NoError(t, top.Host.Sysctl(bridgeHooks6, digit(h.IPv6)))
		got, err := k.Hooks()
		require.NoError(t, err)
		require.Equal(t, h, got)
	}
	labtest.Tool(t, "ip")
	for _, h := range []Hooks{{true, true}, {false, true}, {true, false}, {}} {
		labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostBridge, "type", "bridge",
			"nf_call_iptables", digit(h.IPv4), "nf_call_ip6tables", digit(h.IPv6))
		got, err := k.Link(linkNamed(t, top.Host, lab.HostBridge).Attrs().Index)
		require.NoError(t, err)
		require.Equal(t, h, got.Hooks)
		require.Equal(t, kindBridge, got.Kind)
	}
	_, err := readHooks(hostnet.Sysctls{Namespace: &hostnet.Namespace{}, Root: t.TempDir()})
	require.ErrorIs(t, err, fs.ErrNotExist, "without br_netfilter")
}

// A host on the bridge is found by asking it: its address first, then its port. A
// forwarding database is that of one bridge, and holds no address of a port.
func TestKernelNeighbours(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1, BridgeNF: true})
	k := bridgesOf(t, top.Host)
	bridge := linkNamed(t, top.Host, lab.HostBridge)
	index := bridge.Attrs().Index
	labtest.Tool(t, "ip")
	for _, a := range []netip.Addr{top.Backend1.V4, top.Backend1.V6} {
		labtest.Exec(t, top.Host, "ip", "neigh", "flush", "dev", lab.HostBridge)
		labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostBridge, "type", "bridge", "fdb_flush")
		_, err := k.Neighbour(index, a)
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.NoError(t, k.Solicit(index, a, false))
		mac := macOf(linkNamed(t, top.Backend1, lab.MachineLink))
		awaitTrue(t, "the neighbour", func() bool {
			got, err := k.Neighbour(index, a)
			return err == nil && got == mac
		})
		all, err := k.Neighbours()
		require.NoError(t, err)
		require.Contains(t, all, Neighbour{index, a, mac})
		require.Equal(t, map[HardwareAddr]int{mac: linkNamed(t, top.Host, lab.HostPort1).Attrs().Index}, fdbOf(t, k, index))

		// One that is known and has been silent is asked all the same.
		awaitTrue(t, "it to be silent", func() bool {
			labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostBridge, "type", "bridge", "fdb_flush")
			return len(fdbOf(t, k, index)) == 0
		})
		require.NoError(t, k.Solicit(index, a, true))
		awaitTrue(t, "the entry", func() bool { return len(fdbOf(t, k, index)) == 1 })
	}
	// Nobody there: it is asked in vain, and not found.
	nobody := top.Inside4.Addr().Next().Next().Next().Next().Next()
	require.NoError(t, k.Solicit(index, nobody, false))
	_, err := k.Neighbour(index, nobody)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.Error(t, k.Solicit(9999, nobody, false))
}

// A neighbour that somebody has set is left as it is; one that the kernel has found out is
// asked, and stays a router.
func TestKernelNeighboursThatAreSet(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1, BridgeNF: true})
	k := bridgesOf(t, top.Host)
	index := linkNamed(t, top.Host, lab.HostBridge).Attrs().Index
	mac := macOf(linkNamed(t, top.Backend1, lab.MachineLink))
	for _, a := range []netip.Addr{top.Backend1.V4, top.Backend1.V6} {
		for _, set := range []string{"nud permanent", "nud noarp", "nud reachable extern_learn", "managed", "nud stale"} {
			labtest.Exec(t, top.Host, "ip", "neigh", "flush", "all", "nud", "all")
			args := append([]string{"neigh", "replace", a.String(), "dev", lab.HostBridge, "lladdr", net.HardwareAddr(mac[:]).String(), "router"}, strings.Fields(set)...)
			labtest.Exec(t, top.Host, "ip", args...)
			awaitTrue(t, "its address", func() bool { _, err := k.Neighbour(index, a); return err == nil })
			before := labtest.Exec(t, top.Host, "ip", "neigh", "show", a.String(), "dev", lab.HostBridge)
			require.NoError(t, k.Solicit(index, a, true))
			require.NoError(t, k.Solicit(index, a, false))
			if set == "nud stale" {
				awaitTrue(t, "it to be asked", func() bool {
					return strings.Contains(labtest.Exec(t, top.Host, "ip", "neigh", "show", a.String(), "dev", lab.HostBridge), map[bool]string{true: "router REACHABLE", false: "REACHABLE"}[a.Is4()])
				}) // an IPv6 host says itself that it is none
				continue
			}
			require.Equal(t, before, labtest.Exec(t, top.Host, "ip", "neigh", "show", a.String(), "dev", lab.HostBridge))
		}
	}
}

// fdbOf reads the forwarding database in each way, again if the bridge learns an address
// meanwhile.
func fdbOf(tb testing.TB, k *kernel, bridge int) (all map[HardwareAddr]int) {
	tb.Helper()
	awaitTrue(tb, "the forwarding database to stay the same", func() bool {
		var err error
		all, err = k.FDB(Link{Index: bridge, VLANs: true}, nil)
		require.NoError(tb, err)
		// The same one by one, and none that is not there.
		macs := append(slices.Collect(maps.Keys(all)), HardwareAddr{2, 9})
		single, err := k.FDB(Link{Index: bridge}, macs)
		require.NoError(tb, err)
		many, err := k.FDB(Link{Index: bridge}, make([]HardwareAddr, maxSingle+1))
		require.NoError(tb, err)
		return maps.Equal(all, single) && maps.Equal(all, many)
	})
	return all
}

// Messages of any length and content are read without a panic.
func TestParseMessages(t *testing.T) {
	for n := range 40 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i * 37)
		}
		_, ok := parseNeighbour(b)
		require.Equal(t, n >= 12, ok)
		_, ok = parseLink(b)
		require.Equal(t, n >= 16, ok)
	}
}

// awaitTrue waits for something that the kernel does by itself.
func awaitTrue(tb testing.TB, what string, done func() bool) {
	tb.Helper()
	wait := time.Millisecond
	for range 100 {
		if done() {
			return
		}
		time.Sleep(wait)
		wait = min(2*wait, 100*time.Millisecond)
	}
	tb.Fatalf("waited in vain for %s", what)
}

// inHairpinMode asks bridge(8) for a port's mode.
func inHairpinMode(tb testing.TB, ns *lab.NS, port string) bool {
	tb.Helper()
	labtest.Tool(tb, "bridge")
	return strings.Contains(labtest.Exec(tb, ns, "bridge", "-d", "link", "show", "dev", port), "hairpin on")
}

func digit(on bool) string { return map[bool]string{false: "0", true: "1"}[on] }
