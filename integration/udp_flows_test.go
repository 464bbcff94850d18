// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// For a UDP client that keeps its source port, a change takes effect with its next datagram:
// publish, replace and unpublish, with the same and with another port at the backend.
func TestFlowsFollow(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	labtest.EchoUDP(t, top.Backend1, "one", ":53")
	labtest.EchoUDP(t, top.Backend2, "two", ":53")
	e := open(t, top.Host, engine.Options{})
	for _, f := range families(top) {
		for kind, host := range map[string]netip.Addr{"any": {}, "one address": f.host, "one family": f.wildcard} {
			for _, port := range []int{53, 5353} {
				t.Run(fmt.Sprintf("%s/%s/%d", f.name, kind, port), func(t *testing.T) {
					first := toward(host, port, port) + "->" + at(f.backend1, 53) + "/udp"
					second := toward(host, port, port) + "->" + at(f.backend2, 53) + "/udp"
					before := dialFlow(t, top.Client, "udp", at(f.host, port))
					own := dialFlow(t, top.Host, "udp", at(f.host, port))
					require.ErrorIs(t, before.refused(t), unix.ECONNREFUSED)
					require.ErrorIs(t, own.refused(t), unix.ECONNREFUSED)

					publish(t, e, first)
					require.Equal(t, "one", before.name(t), "it was refused, and conntrack knows it as such")
					require.Equal(t, "one", own.name(t))
					_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, mapping(t, second))
					require.NoError(t, err)
					require.Equal(t, "two", before.name(t))
					require.Equal(t, "two", own.name(t))
					_, err = e.Apply(t.Context(), mapping(t, first))
					require.NoError(t, err)
					require.Equal(t, "one", before.name(t))

					unpublish(t, e, first)
					require.ErrorIs(t, before.refused(t), unix.ECONNREFUSED)
					require.ErrorIs(t, own.refused(t), unix.ECONNREFUSED)
					publish(t, e, second)
					require.Equal(t, "two", before.name(t))
					unpublish(t, e, second)
				})
			}
		}
	}
}

// A mapping takes precedence over a service of the host on the same port, which is reached
// again afterwards.
func TestFlowsOfHostService(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoUDP(t, top.Backend1, "backend", ":53")
	labtest.EchoUDP(t, top.Host, "host", ":53")
	e := open(t, top.Host, engine.Options{})
	f := dialFlow(t, top.Client, "udp", at(top.Host.V4, 53))
	require.Equal(t, "host", f.name(t))
	publish(t, e, "53->172.30.0.2:53/udp")
	require.Equal(t, "backend", f.name(t))
	unpublish(t, e, "53->172.30.0.2:53/udp")
	require.Equal(t, "host", f.name(t))
	require.NoError(t, e.Purge(t.Context()))
}

// A change ends its own flows and no others: not those of other mappings, of the same port at
// other addresses, of the backend's port number, or of packets that pass through.
func TestOtherFlowsStay(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2 | lab.PartFar, Forwarding: true})
	for _, port := range []string{":53", ":5353"} {
		labtest.EchoUDP(t, top.Backend1, "one"+port, port)
		labtest.EchoUDP(t, top.Backend2, "two"+port, port)
		labtest.EchoUDP(t, top.Far, "far"+port, port)
		labtest.EchoTCP(t, top.Backend1, "tcp"+port, port)
	}
	labtest.EchoUDP(t, top.Host, "host:5353", ":5353")
	labtest.EchoUDP(t, top.Host, "loopback", at(loopback4, 53))
	labtest.EchoUDP(t, top.Host, "loopback", at(loopback6, 53))
	for _, f := range families(top) {
		for kind, host := range map[string]netip.Addr{"any": {}, "one address": f.host, "one family": f.wildcard} {
			t.Run(f.name+"/"+kind, func(t *testing.T) { testOtherFlows(t, top, f, host) })
		}
	}
}

// testOtherFlows changes the backend of the host's frontend 53, which is port 5353.
func testOtherFlows(t *testing.T, top *lab.Topology, f family, host netip.Addr) {
	t.Helper()
	e := open(t, top.Host, engine.Options{})
	first := toward(host, 53, 53) + "->" + at(f.backend1, 5353) + "/udp"
	second := toward(host, 53, 53) + "->" + at(f.backend2, 5353) + "/udp"
	publish(t, e, first, toward(f.host, 54, 54)+"->"+at(f.backend1, 53)+"/udp", toward(f.host, 53, 53)+"->"+at(f.backend1, 53))
	others := map[*flow]string{}
	add := func(ns *lab.NS, network string, addr netip.Addr, port int, name string) {
		flow := dialFlow(t, ns, network, at(addr, port))
		require.Equal(t, name, flow.name(t))
		others[flow] = name
	}
	add(top.Client, "udp", f.host, 54, "one:53")       // another port
	add(top.Client, "udp", f.far, 53, "far:53")        // in transit, to the frontend's port
	add(top.Client, "udp", f.far, 5353, "far:5353")    // and to the backend's
	add(top.Client, "udp", f.host, 5353, "host:5353")  // the host's own service on the backend's port
	add(top.Backend2, "udp", f.far, 53, "far:53")      // of a backend
	add(top.Host, "udp", f.far, 53, "far:53")          // of the host, to others
	add(top.Host, "udp", f.backend1, 5353, "one:5353") // and to the backend directly
	add(top.Client, "tcp", f.host, 53, "tcp:53")       // of the other protocol
	if f.client.Is4() {
		add(top.Host, "udp", loopback4, 53, "loopback")
	} else {
		add(top.Host, "udp", loopback6, 53, "loopback")
	}
	if host == f.host { // the same port and backend, by another address
		publish(t, e, toward(f.second, 53, 53)+"->"+at(f.backend1, 5353)+"/udp")
		add(top.Client, "udp", f.second, 53, "one:5353")
	}
	concerned := dialFlow(t, top.Client, "udp", at(f.host, 53))
	require.Equal(t, "one:5353", concerned.name(t))
	before := otherFlows(t, top, f, concerned)
	require.Len(t, before, len(others))

	publishing := func(how nat.PublishOptions) func(nat.Mapping) ([]nat.Mapping, error) {
		return func(m nat.Mapping) ([]nat.Mapping, error) { return e.Publish(t.Context(), how, m) }
	}
	removing := func(kill bool) func(nat.Mapping) ([]nat.Mapping, error) {
		return func(m nat.Mapping) ([]nat.Mapping, error) {
			return e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{m}, Kill: kill})
		}
	}
	for _, step := range []struct {
		change func(nat.Mapping) ([]nat.Mapping, error)
		to     string
		name   string // of the server that answers then; empty: refused
	}{
		{publishing(nat.PublishOptions{Replace: true}), second, "two:5353"},
		{removing(false), second, ""},
		{publishing(nat.PublishOptions{}), first, "one:5353"},
		{removing(true), first, ""},
	} {
		_, err := step.change(mapping(t, step.to))
		require.NoError(t, err)
		require.Equal(t, before, otherFlows(t, top, f, concerned), "the same entries of the kernel's")
		if step.name == "" {
			require.ErrorIs(t, concerned.refused(t), unix.ECONNREFUSED)
		} else {
			require.Equal(t, step.name, concerned.name(t))
		}
	}
	// Flows that lead to the new backend already stay as well.
	same := mapping(t, toward(f.host, 54, 54)+"->"+at(f.backend1, 53)+"/udp")
	same.Name = "renamed"
	_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, same)
	require.NoError(t, err)
	require.Equal(t, before, otherFlows(t, top, f, concerned))

	for flow, name := range others {
		if flow.network == "tcp" {
			name = "" // it has sent its name already
		}
		require.Equal(t, name, flow.name(t))
	}
	require.NoError(t, e.Purge(t.Context()))
	labtest.Exec(t, top.Host, "conntrack", "-F")
}

// otherFlows returns the numbers of all entries except those of one source port.
func otherFlows(t *testing.T, top *lab.Topology, f family, not *flow) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, network := range []string{"udp", "tcp"} {
		for line, id := range trackedIDs(t, top.Host, network, f.host) {
			mine := fmt.Sprintf("udp src=%s dst=%s sport=%d ", f.client, f.host, not.local().Port())
			if len(line) < len(mine) || line[:len(mine)] != mine {
				found[line] = id
			}
		}
	}
	return found
}

// Established TCP connections go on after Unpublish, and end with Kill.
func TestEstablishedTCP(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	labtest.EchoTCP(t, top.Backend1, "one", ":80")
	labtest.EchoTCP(t, top.Backend2, "two", ":80")
	e := open(t, top.Host, engine.Options{})
	for _, f := range families(top) {
		t.Run(f.name, func(t *testing.T) {
			killed := toward(netip.Addr{}, 8080, 8080) + "->" + at(f.backend1, 80)
			spared := toward(f.host, 8081, 8081) + "->" + at(f.backend1, 80)
			publish(t, e, killed, spared)
			ending := dialFlow(t, top.Client, "tcp", at(f.host, 8080))
			staying := dialFlow(t, top.Client, "tcp", at(f.host, 8081))
			require.Equal(t, "one", ending.name(t))
			require.Equal(t, "one", staying.name(t))

			// Replace affects new connections only.
			_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, mapping(t, toward(f.host, 8081, 8081)+"->"+at(f.backend2, 80)))
			require.NoError(t, err)
			staying.name(t)
			labtest.Reaches(t, top.Client, "tcp", at(f.host, 8081), "two")
			unpublish(t, e, spared)
			staying.name(t)
			require.ErrorIs(t, labtest.NoAnswer(t, top.Client, "tcp", at(f.host, 8081)), unix.ECONNREFUSED)

			_, err = e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{mapping(t, killed)}, Kill: true})
			require.NoError(t, err)
			require.ErrorIs(t, ending.refused(t), unix.ECONNRESET)
			staying.name(t)
		})
	}
}

// Flows that other rules translate are not ended.
func TestFlowsOfOthersRules(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	labtest.EchoUDP(t, top.Backend1, "ours", ":53")
	labtest.EchoUDP(t, top.Backend2, "theirs", ":53")
	e := open(t, top.Host, engine.Options{})
	publish(t, e, "53->172.30.0.2:53/udp")
	load(t, top.Host, `table ip others { chain prerouting {
		type nat hook prerouting priority dstnat - 10;
		udp sport 20000 udp dport 53 dnat to 172.30.0.3; }; }`)
	name, _, err := lab.Ask(t.Context(), top.Client, "udp", at(top.Host.V4, 53), netip.AddrPortFrom(top.Client.V4, 20000))
	require.NoError(t, err)
	require.Equal(t, "theirs", name)
	mine := dialFlow(t, top.Client, "udp", at(top.Host.V4, 53))
	require.Equal(t, "ours", mine.name(t))

	before := trackedIDs(t, top.Host, "udp", top.Host.V4)
	require.Len(t, before, 2)
	unpublish(t, e, "53->172.30.0.2:53/udp")
	maps.DeleteFunc(before, func(line, _ string) bool { return !strings.Contains(line, "sport=20000") })
	require.Len(t, before, 1)
	require.Equal(t, before, trackedIDs(t, top.Host, "udp", top.Host.V4))
	require.ErrorIs(t, mine.refused(t), unix.ECONNREFUSED)
}
