// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// The tests of this file write elements of ranges with nft(8) into the ruleset, and send packets.
// Where the ports of a range lead, by which options, is thus tested without an engine.

// rangeTable is a host with the ruleset and nothing in it.
type rangeTable struct {
	*lab.Topology
	f family
	// proto is tcp or udp, digit that of the family.
	proto, digit string
}

func newRangeTable(t *testing.T, parts lab.Parts) *lab.Topology {
	t.Helper()
	top := newTopology(t, lab.Options{Parts: parts})
	require.NoError(t, top.SetForwarding(true))
	plan, err := engine.Plan("")
	require.NoError(t, err)
	load(t, top.Host, plan)
	return top
}

// each runs f for both protocols and families, on an empty table.
func eachRangeTable(t *testing.T, top *lab.Topology, f func(*testing.T, rangeTable)) {
	t.Helper()
	for _, family := range families(top) {
		for _, proto := range []string{"tcp", "udp"} {
			t.Run(family.name+"/"+proto, func(t *testing.T) {
				r := rangeTable{top, family, proto, map[int]string{32: "4", 128: "6"}[family.bits]}
				f(t, r)
				plan, err := engine.Plan("")
				require.NoError(t, err)
				load(t, top.Host, "delete table inet nftnat\n"+plan)
			})
		}
	}
}

// nft makes changes of elements. $P stands for the protocol and the digit of the family, $D for the
// digit, $1 and $2 for the backends, and so on.
func (r rangeTable) nft(t *testing.T, changes ...string) {
	t.Helper()
	words := strings.NewReplacer("$P", r.proto+r.digit, "$D", r.digit, "$proto", r.proto, "$host", r.f.host.String(), "$second", r.f.second.String(),
		"$1", r.f.backend1.String(), "$2", r.f.backend2.String(), "$client", r.f.client.String(), "$nobody", r.f.gateway.String())
	var script strings.Builder
	for _, c := range changes {
		verb, rest, _ := strings.Cut(c, " ")
		fmt.Fprintf(&script, "%s element inet nftnat %s\n", verb, words.Replace(rest))
	}
	load(t, r.Host, script.String())
}

// rangePorts are those at which backends answer; the others of a range are not asked.
func rangePorts() []int { return []int{5000, 5500, 5501, 5502, 5999} }

// serveRanges has both backends answer at the ports, each with its name and the port.
func serveRanges(t *testing.T, top *lab.Topology) {
	t.Helper()
	for name, ns := range map[string]*lab.NS{"backend1": top.Backend1, "backend2": top.Backend2} {
		for _, port := range rangePorts() {
			for _, network := range []string{"tcp", "udp"} {
				labtest.Echo(t, ns, network, fmt.Sprint(name, ":", port), fmt.Sprint(":", port))
			}
		}
	}
}

// leads requires that ports of an address lead to the same ports of a backend.
func (r rangeTable) leads(t *testing.T, from *lab.NS, host netip.Addr, backend string, ports ...int) {
	t.Helper()
	for _, port := range ports {
		peer := labtest.Reaches(t, from, r.proto, at(host, port), fmt.Sprint(backend, ":", port))
		if from == r.Client {
			require.Equal(t, r.f.client, peer.Addr())
		}
	}
}

// refuses requires that ports lead nowhere, as those that are not published.
func (r rangeTable) refuses(t *testing.T, from *lab.NS, host netip.Addr, ports ...int) {
	t.Helper()
	for _, port := range ports {
		require.ErrorIs(t, labtest.NoAnswer(t, from, r.proto, at(host, port)), unix.ECONNREFUSED, port)
	}
}

// Ranges lead to the same ports of their backends. Ports that are taken out lead elsewhere or
// nowhere, and the second map counts where the first has nothing.
func TestRangeElements(t *testing.T) {
	t.Parallel()
	top := newRangeTable(t, lab.PartBackend1|lab.PartBackend2)
	serveRanges(t, top)
	eachRangeTable(t, top, func(t *testing.T, r rangeTable) {
		t.Helper()
		r.nft(t, "add $P_range { 5000-5999 : $1 }", "add $P_range { 1000-1999 : $2, 4999 : $2, 60000-65535 : $2 }", "delete $P_range { 4999 }")
		r.leads(t, r.Client, r.f.host, "backend1", rangePorts()...)
		r.leads(t, r.Client, r.f.second, "backend1", 5500)
		r.leads(t, r.Host, r.f.host, "backend1", 5500)
		r.refuses(t, r.Client, r.f.host, 4999, 6000)

		r.nft(t, "add $P { 5501 : $2 . 5501 }", "add holes { ipv$D . $proto . 5502 }")
		r.leads(t, r.Client, r.f.host, "backend1", 5500, 5999)
		r.leads(t, r.Client, r.f.host, "backend2", 5501)
		r.refuses(t, r.Client, r.f.host, 5502)
		r.nft(t, "add $P { 5502 : $2 . 5502 }")
		r.leads(t, r.Client, r.f.host, "backend2", 5502)
		r.nft(t, "delete $P { 5502 }")
		r.refuses(t, r.Client, r.f.host, 5502)
		r.nft(t, "delete holes { ipv$D . $proto . 5502 }", "delete $P { 5501 }")
		r.leads(t, r.Client, r.f.host, "backend1", 5501, 5502)

		r.nft(t, "add $P_range_next { 5000-5999 : $2 }")
		r.leads(t, r.Client, r.f.host, "backend1", 5500)
		r.nft(t, "delete $P_range { 5000-5999 }")
		r.leads(t, r.Client, r.f.host, "backend2", rangePorts()...)

		// One address goes before any, and its holes count for it alone.
		r.nft(t, "add $P_host_range { 5000-5999 . $host : $1 }", "add holes$D_host { $proto . $host . 5500 }")
		r.leads(t, r.Client, r.f.host, "backend1", 5000, 5501, 5999)
		r.leads(t, r.Client, r.f.host, "backend2", 5500)
		r.leads(t, r.Client, r.f.second, "backend2", 5000, 5500)
		r.nft(t, "add $P_host { $host . 5501 : $2 . 5501 }", "add holes { ipv$D . $proto . 5500 }")
		r.leads(t, r.Client, r.f.host, "backend2", 5501)
		r.refuses(t, r.Client, r.f.host, 5500)
		r.nft(t, "add $P_host_range_next { 5000-5999 . $host : $2 }", "delete $P_host_range { 5000-5999 . $host }", "delete holes$D_host { $proto . $host . 5500 }")
		r.leads(t, r.Client, r.f.host, "backend2", 5000, 5500, 5502)
	})
}

// Where a range of one address was until its time was over, nothing is, and the ranges around it
// lead on to their backends. Linux before 6.18 with AVX2 takes an expired element for a reason to
// look for another key: the first two bytes of the address as the port, and what the rule before
// has left behind the key as the address. What it finds so it takes for the answer, and keeps for
// the next packet.
func TestExpiredRange(t *testing.T) {
	t.Parallel()
	top := newRangeTable(t, lab.PartBackend1|lab.PartBackend2)
	serveRanges(t, top)
	eachRangeTable(t, top, func(t *testing.T, r rangeTable) {
		t.Helper()
		b := r.f.host.AsSlice()
		taken := int(b[0])<<8 | int(b[1])
		r.nft(t, fmt.Sprintf("add $P_host_range { %d-%d . $host : $1, 5000-5499 . $host timeout 100ms : $2, 5500-5999 . $host : $2 }", taken, taken+99))
		await(t, "the end of a range", func() bool {
			return !strings.Contains(labtest.Exec(t, r.Host, "nft", "list", "table", "inet", "nftnat"), "5000-5499")
		})
		for range 4 {
			r.refuses(t, r.Client, r.f.host, 5000)
			r.leads(t, r.Client, r.f.host, "backend2", 5500, 5501, 5999)
		}
	})
}

// Only the clients of a limited range reach it, and this host. A limit counts for the ports that
// its range serves, and that of the second map where the first has nothing.
func TestRangeLimits(t *testing.T) {
	t.Parallel()
	top := newRangeTable(t, lab.PartBackend1|lab.PartBackend2|lab.PartNeighbour)
	serveRanges(t, top)
	eachRangeTable(t, top, func(t *testing.T, r rangeTable) {
		t.Helper()
		for kind, of := range map[string]string{"": "", "_host": " . $host"} {
			d, family := "$D"+kind, of
			if kind == "" {
				d, family = "", " . ipv$D"
			}
			limit := func(next string) string {
				return "limited" + d + "_range" + next + " { 5000-5999" + family + " . $proto }"
			}
			clients := func(next, client string) string {
				addrs := " . " + client + " . $proto"
				if kind != "" {
					addrs = " . $host . $proto . " + client
				}
				return "from$D" + kind + "_range" + next + " { 5000-5999" + addrs + " }"
			}
			name := func(next, backend string) string {
				return "$P" + kind + "_range" + next + " { 5000-5999" + of + backend + " }"
			}
			r.nft(t, "add "+limit(""), "add "+clients("", "$client"), "add "+name("", " : $1"))
			r.leads(t, r.Client, r.f.host, "backend1", 5000, 5500, 5999)
			r.leads(t, r.Host, r.f.host, "backend1", 5500)
			noAnswers(t, r.Neighbour, r.proto, at(r.f.host, 5000), at(r.f.host, 5999))
			r.nft(t, "add $P { 5501 : $2 . 5501 }")
			r.leads(t, r.Neighbour, r.f.host, "backend2", 5501)

			neighbour := map[string]string{"4": r.Neighbour.V4.String(), "6": r.Neighbour.V6.String()}[r.digit]
			r.nft(t, "add "+limit("_next"), "add "+clients("_next", neighbour), "add "+name("_next", " : $2"))
			r.leads(t, r.Client, r.f.host, "backend1", 5000)
			r.nft(t, "delete "+name("", ""))
			r.nft(t, "delete "+limit(""), "delete "+clients("", "$client"))
			r.leads(t, r.Neighbour, r.f.host, "backend2", 5000, 5999)
			noAnswers(t, r.Client, r.proto, at(r.f.host, 5000), at(r.f.host, 5999))
			r.nft(t, "delete $P { 5501 }", "delete "+name("_next", ""), "delete "+limit("_next"), "delete "+clients("_next", neighbour))
			r.refuses(t, r.Neighbour, r.f.host, 5000)
		}
	})
}

// A backend without a way back answers if its range is masqueraded, whichever address was called
// or one.
func TestRangeMasquerade(t *testing.T) {
	t.Parallel()
	top := newRangeTable(t, lab.PartBackend1|lab.PartBackend2)
	serveRanges(t, top)
	forget(t, top.Backend1)
	eachRangeTable(t, top, func(t *testing.T, r rangeTable) {
		t.Helper()
		r.nft(t, "add $P_range { 5000-5999 : $1 }")
		noAnswers(t, r.Client, r.proto, at(r.f.host, 5000))
		for _, next := range []string{"", "_next"} {
			any := "masquerade_to$D_range" + next + " { 5000-5999 . $1 . $proto }"
			one := "masquerade_to$D_host_range" + next + " { 5000-5999 . $1 . $proto . $host }"
			seen := func(host netip.Addr) {
				require.Equal(t, r.f.gateway, labtest.Reaches(t, r.Client, r.proto, at(host, 5500), "backend1:5500").Addr())
			}
			r.nft(t, "add "+any)
			seen(r.f.host)
			seen(r.f.second)
			r.nft(t, "delete "+any, "add "+one)
			seen(r.f.host)
			noAnswers(t, r.Client, r.proto, at(r.f.second, 5500))
			r.nft(t, "delete "+one)
		}
	})
}

// What a backend sends from a port of a range leaves by the same port, by the address of the
// interface or one of the host, and from other ports by the way out.
func TestRangeWayOut(t *testing.T) {
	t.Parallel()
	top := newRangeTable(t, lab.PartBackend1|lab.PartBackend2|lab.PartFar)
	eachRangeTable(t, top, func(t *testing.T, r rangeTable) {
		t.Helper()
		if r.proto != "udp" {
			return
		}
		inside := map[string]netip.Prefix{"4": top.Inside4, "6": top.Inside6}[r.digit].String()
		r.nft(t, "add networks$D { "+inside+" }", "add masqueraded$D { "+inside+" }")
		peer := listen(t, top.Far, at(r.f.far, 27010))
		seen := func(ns *lab.NS, from netip.Addr, port int) netip.AddrPort {
			t.Helper()
			s := listen(t, ns, at(from, port))
			defer func() { _ = s.Close() }()
			h := &heartbeats{from: s, to: peer, addr: at(r.f.far, 27010)}
			// Each is a flow of its own.
			_ = labtest.Exec(t, top.Host, "conntrack", "-F")
			return h.seen(t)
		}
		random := func(ap netip.AddrPort) { require.True(t, masqueradePort(ap.Port()), ap) }
		link := strings.Fields(labtest.Exec(t, top.Host, "ip", "-o", "route", "get", r.f.far.String()))
		out := link[slices.Index(link, "dev")+1]
		host := farAddr(r.f).String()
		for _, e := range [][2]string{
			{"udp$D_out_range { 5000-5999 . $1", ""},
			{"udp$D_host_out_range { 5000-5999 . $1", " : " + host},
			{"udp$D_link_out_range { \"" + out + "\" . 5000-5999 . $1", " : " + host},
		} {
			random(seen(top.Backend1, r.f.backend1, 5500))
			r.nft(t, "add "+e[0]+e[1]+" }")
			require.Equal(t, at(farAddr(r.f), 5500), seen(top.Backend1, r.f.backend1, 5500).String(), e)
			require.Equal(t, at(farAddr(r.f), 5999), seen(top.Backend1, r.f.backend1, 5999).String(), e)
			random(seen(top.Backend1, r.f.backend1, 6000))
			random(seen(top.Backend2, r.f.backend2, 5500))
			r.nft(t, "delete "+e[0]+" }")
		}
		r.nft(t, `add udp$D_link_out_range { "nosuch" . 5000-5999 . $1 : `+host+" }")
		random(seen(top.Backend1, r.f.backend1, 5500))
	})
}
