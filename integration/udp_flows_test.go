// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/lab"
	"github.com/nftnat/nftnat/lab/labtest"
)

// A client over UDP that keeps its source port sees a change with its next datagram:
// publishing, another backend, and the end; on the port that the backend has too, and
// on another.
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
					_, err := e.Retarget(mapping(t, second))
					require.NoError(t, err)
					require.Equal(t, "two", before.name(t))
					require.Equal(t, "two", own.name(t))
					_, err = e.Apply(mapping(t, first))
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

// A service of the host's own gives way to what is published on its port, and has the
// port back afterwards.
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
	require.NoError(t, e.Purge())
}

// A change ends the flows that it is about and no others: not those of other
// mappings, of the same port elsewhere, of the backend's port number, nor what only
// passes through.
func TestOtherFlowsStay(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2 | lab.PartFar, Forwarding: true})
	for _, port := range []string{":53", ":5353"} {
		labtest.EchoUDP(t, top.Backend1, "one"+port, port)
		labtest.EchoUDP(t, top.Backend2, "two"+port, port)
		labtest.EchoUDP(t, top.Far, "far"+port, port)
		labtest.EchoTCP(t, top.Backend1, "tcp"+port, port)
	}
	labtest.EchoUDP(t, top.Host, "host:5353", ":5353")
	for _, f := range families(top) {
		t.Run(f.name, func(t *testing.T) {
			e := open(t, top.Host, engine.Options{})
			// Frontend 53 of one address leads to the backend's 5353.
			changed := toward(f.host, 53, 53) + "->" + at(f.backend1, 5353) + "/udp"
			publish(t, e, changed,
				toward(f.second, 53, 53)+"->"+at(f.backend1, 5353)+"/udp", toward(f.host, 54, 54)+"->"+at(f.backend1, 53)+"/udp",
				toward(f.host, 53, 53)+"->"+at(f.backend1, 53))
			others := map[*flow]string{}
			for _, o := range []struct {
				ns            *lab.NS
				network, addr string
				name          string
			}{
				{top.Client, "udp", at(f.second, 53), "one:5353"},   // the same port and backend, another address
				{top.Client, "udp", at(f.host, 54), "one:53"},       // another port
				{top.Client, "udp", at(f.far, 53), "far:53"},        // in transit, to the frontend's port
				{top.Client, "udp", at(f.far, 5353), "far:5353"},    // and to the backend's
				{top.Client, "udp", at(f.host, 5353), "host:5353"},  // the host's own service on the backend's port
				{top.Backend2, "udp", at(f.far, 53), "far:53"},      // of a backend
				{top.Host, "udp", at(f.backend1, 5353), "one:5353"}, // of the host, to the backend directly
				{top.Client, "tcp", at(f.host, 53), "tcp:53"},       // of the other protocol
			} {
				flow := dialFlow(t, o.ns, o.network, o.addr)
				require.Equal(t, o.name, flow.name(t))
				others[flow] = o.name
			}
			concerned := dialFlow(t, top.Client, "udp", at(f.host, 53))
			require.Equal(t, "one:5353", concerned.name(t))
			before := otherFlows(t, top, f, concerned)
			require.Len(t, before, len(others))

			for _, step := range []struct {
				do   func() error
				name string
			}{
				{func() error {
					_, err := e.Retarget(mapping(t, toward(f.host, 53, 53)+"->"+at(f.backend2, 5353)+"/udp"))
					return err
				}, "two:5353"},
				{func() error { _, err := e.Unpublish(mapping(t, changed)); return err }, ""},
				{func() error { _, err := e.Publish(mapping(t, changed)); return err }, "one:5353"},
				{func() error { _, err := e.Kill(mapping(t, changed)); return err }, ""},
			} {
				require.NoError(t, step.do())
				require.Equal(t, before, otherFlows(t, top, f, concerned), "the same entries of the kernel's")
				if step.name == "" {
					require.ErrorIs(t, concerned.refused(t), unix.ECONNREFUSED)
				} else {
					require.Equal(t, step.name, concerned.name(t))
				}
			}
			// What goes where the mapping leads already stays as well.
			publish(t, e, toward(f.host, 55, 55)+"->"+at(f.backend1, 53)+"/udp")
			same := dialFlow(t, top.Client, "udp", at(f.host, 55))
			require.Equal(t, "one:53", same.name(t))
			before = otherFlows(t, top, f, concerned)
			m := mapping(t, toward(f.host, 55, 55)+"->"+at(f.backend1, 53)+"/udp")
			m.Name = "renamed"
			_, err := e.Retarget(m)
			require.NoError(t, err)
			require.Equal(t, before, otherFlows(t, top, f, concerned))

			for flow, name := range others {
				if flow.network == "tcp" {
					name = "" // it has said so once
				}
				require.Equal(t, name, flow.name(t))
			}
			require.NoError(t, e.Purge())
			labtest.Exec(t, top.Host, "conntrack", "-F")
		})
	}
}

// otherFlows are the numbers of all entries but those of one flow's source port.
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

// Established connections over TCP outlive Unpublish and end with Kill.
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

			// Another backend is for new connections.
			_, err := e.Retarget(mapping(t, toward(f.host, 8081, 8081)+"->"+at(f.backend2, 80)))
			require.NoError(t, err)
			staying.name(t)
			labtest.Reaches(t, top.Client, "tcp", at(f.host, 8081), "two")
			unpublish(t, e, spared)
			staying.name(t)
			require.ErrorIs(t, labtest.NoAnswer(t, top.Client, "tcp", at(f.host, 8081)), unix.ECONNREFUSED)

			_, err = e.Kill(mapping(t, killed))
			require.NoError(t, err)
			require.ErrorIs(t, ending.refused(t), unix.ECONNRESET)
			staying.name(t)
		})
	}
}
