// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
)

// flushScript empties what has ranges, and what has backends that are masqueraded.
func flushScript(t *testing.T) string {
	t.Helper()
	plan, err := engine.Plan("")
	require.NoError(t, err)
	var script strings.Builder
	for _, m := range regexp.MustCompile(`(?m)^\s*(set|map) (\S*(range|holes|masquerade_to\d_host)\S*) \{`).FindAllStringSubmatch(plan, -1) {
		fmt.Fprintf(&script, "flush %s inet nftnat %s\n", m[1], m[2])
	}
	return script.String()
}

// rangeMutations lead the ports of ranges elsewhere, let in who may not, and lose the way out.
func rangeMutations(p *prober) []mutation {
	var ms []mutation
	for i, f := range families(p.top) {
		r := rangeMutation{p.top, f, []string{"4", "6"}[i], []string{"ip", "ip6"}[i]}
		for _, next := range []string{"", "_next"} {
			ms = append(ms, r.published(next)...)
			ms = append(ms, r.limited(next)...)
			ms = append(ms, r.masqueraded(next)...)
		}
		ms = append(ms, r.holes()...)
		ms = append(ms, r.leaving()...)
	}
	ms = append(ms, mutation{
		chain: "publish", rule: "jump publish-ranges",
		networks: []string{"tcp4_range { 80-89 : 172.30.0.2 }"},
		probe:    reaches(p.top.Client, "tcp", at(p.top.Host.V4, 80), "backend1", p.top.Client.V4),
	})
	for _, next := range []string{"", "_next"} {
		ms = append(ms, mutation{
			chain: "nat-prerouting",
			rule:  "th dport . meta nfproto . meta l4proto @limited_range" + next + " fib daddr type broadcast jump only-from" + strings.ReplaceAll(next, "_", "-") + "-ranges",
			networks: []string{
				"limited_range" + next + " { 80-89 . ipv4 . udp }", "from4_range" + next + " { 80-89 . 172.30.0.3 . udp }",
			},
			probe: noBroadcast(p.top.Host, p.top.Client, 89),
		})
	}
	return ms
}

// rangeMutation makes the mutations of one family. Ports 80 to 89 of the host are a range in them.
type rangeMutation struct {
	top       *lab.Topology
	f         family
	digit, ip string
}

// kinds are the ranges of any address and of one.
func (r rangeMutation) kinds() []rangeKind {
	host := r.f.host.String()
	return []rangeKind{
		{chain: "publish-ranges", limit: "limited_range", limits: "meta nfproto . meta l4proto", limited: "ipv" + r.digit + " . tcp", drops: "only-from"},
		{
			chain: "host-ranges" + r.digit, infix: "_host", field: " . " + r.ip + " daddr", value: " . " + host, limit: "limited" + r.digit + "_host_range",
			limits: r.ip + " daddr . meta l4proto", limited: host + " . tcp", drops: "only-from",
		},
	}
}

type rangeKind struct {
	chain, infix, field, value string
	limit, limits, limited     string // set, fields and value behind the ports
	drops                      string
}

func (k rangeKind) only(next string) string {
	return k.drops + strings.ReplaceAll(next+k.infix, "_", "-") + "-ranges"
}

// element has the range lead to backend 1.
func (r rangeMutation) element(k rangeKind, network, next string) string {
	return network + r.digit + k.infix + "_range" + next + " { 80-89" + k.value + " : " + r.f.backend1.String() + " }"
}

func (r rangeMutation) reached(network string) probe {
	return reaches(r.top.Client, network, at(r.f.host, 80), "backend1", r.f.client)
}

func (r rangeMutation) published(next string) (ms []mutation) {
	for _, k := range r.kinds() {
		for _, network := range []string{"tcp", "udp"} {
			ms = append(ms, mutation{
				chain: k.chain, rule: "dnat " + r.ip + " to " + network + " dport" + k.field + " map @" + network + r.digit + k.infix + "_range" + next,
				networks: []string{r.element(k, network, next)},
				probe:    r.reached(network),
			})
		}
	}
	return ms
}

// limited lets backend 2 alone reach the range, and the host itself.
func (r rangeMutation) limited(next string) (ms []mutation) {
	for _, k := range r.kinds() {
		from := "from" + r.digit + k.infix + "_range" + next
		fields, clients := r.ip+" saddr . meta l4proto", r.f.backend2.String()+" . tcp"
		if k.infix != "" {
			fields, clients = r.ip+" daddr . meta l4proto . "+r.ip+" saddr", r.f.host.String()+" . tcp . "+r.f.backend2.String()
		}
		elements := []string{
			r.element(k, "tcp", next), k.limit + next + " { 80-89 . " + k.limited + " }", from + " { 80-89 . " + clients + " }",
		}
		refused := silent(r.top.Client, "tcp", at(r.f.host, 80))
		ms = append(ms, mutation{
			chain: k.only(next), rule: "th dport . " + fields + " != @" + from + " drop",
			networks: elements, probe: refused,
		})
		// The rest is of both families, or of each.
		if k.infix != "" || r.digit == "4" {
			ms = append(ms, mutation{
				chain: k.chain, rule: "th dport . " + k.limits + " @" + k.limit + next + " jump " + k.only(next),
				networks: elements, probe: refused,
			})
		}
		if r.digit == "4" {
			ms = append(ms, mutation{
				chain: k.only(next), rule: "iif 0 return",
				networks: elements, probe: reaches(r.top.Host, "tcp", at(r.f.host, 80), "backend1", r.f.host),
			})
		}
	}
	return ms
}

func (r rangeMutation) masqueraded(next string) (ms []mutation) {
	for infix, of := range map[string][2]string{"": {}, "_host": {" . ct original " + r.ip + " daddr", " . " + r.f.host.String()}} {
		set := "masquerade_to" + r.digit + infix + "_range" + next
		ms = append(ms, mutation{
			chain: "to-backends", rule: "th dport . " + r.ip + " daddr . meta l4proto" + of[0] + " @" + set + " jump way-out",
			networks: []string{set + " { 80-89 . " + r.f.backend1.String() + " . tcp" + of[1] + " }"},
			probe:    reaches(r.top.Client, "tcp", at(r.f.host, portOfAny), "backend1", r.f.gateway),
		})
	}
	return ms
}

func (r rangeMutation) holes() []mutation {
	k, refused := r.kinds(), silent(r.top.Client, "tcp", at(r.f.host, 80))
	ms := []mutation{{
		chain: k[1].chain, rule: "meta l4proto . " + r.ip + " daddr . th dport @holes" + r.digit + "_host return",
		networks: []string{r.element(k[1], "tcp", ""), "holes" + r.digit + "_host { tcp . " + r.f.host.String() + " . 80 }"},
		probe:    refused,
	}, {
		chain: "publish-ranges", rule: "meta nfproto ipv" + r.digit + " jump host-ranges" + r.digit,
		networks: []string{r.element(k[1], "udp", "")},
		probe:    r.reached("udp"),
	}}
	if r.digit == "4" { // of both
		ms = append(ms, mutation{
			chain: k[0].chain, rule: "meta nfproto . meta l4proto . th dport @holes return",
			networks: []string{r.element(k[0], "tcp", ""), "holes { ipv4 . tcp . 80 }"},
			probe:    refused,
		})
	}
	return ms
}

// leaving has backend 1 leave from the ports of a range.
func (r rangeMutation) leaving() (ms []mutation) {
	inside := map[string]netip.Prefix{"4": r.top.Inside4, "6": r.top.Inside6}[r.digit].String()
	const port = 5500
	from, peer := r.f.backend1.String(), farAddr(r.f)
	add := func(chain, rule, network, element string) {
		ms = append(ms, mutation{
			chain: chain, rule: rule, networks: append(declared(r.digit, inside), element),
			probe: samePort(r.top.Backend1, network, at(r.f.far, portOfAny), netip.AddrPortFrom(r.f.backend1, port), peer),
		})
	}
	for _, network := range []string{"tcp", "udp"} {
		set, key := network+r.digit, network+" sport . "+r.ip+" saddr"
		snat := "snat " + r.ip + " to "
		one := set + "_out_range { 5000-5999 . " + from + " }"
		add("by-range", key+" @"+set+"_out_range masquerade to :"+network+" sport", network, one)
		add("by-range", snat+"oifname . "+key+" map @"+set+"_link_out_range:"+network+" sport", network,
			set+`_link_out_range { "`+lab.HostFar+`" . 5000-5999 . `+from+" : "+peer.String()+" }")
		add("by-range", snat+key+" map @"+set+"_host_out_range:"+network+" sport", network,
			set+"_host_out_range { 5000-5999 . "+from+" : "+peer.String()+" }")
		if set == "udp4" {
			add("by-frontend", "jump by-range", network, one)
		}
	}
	return ms
}

// samePort connects from a port that the server must see, with another address.
func samePort(ns *lab.NS, network, addr string, from netip.AddrPort, peer netip.Addr) probe {
	return func(wait time.Duration) error {
		_, saw, err := askWithin(ns, network, addr, from, wait)
		if want := netip.AddrPortFrom(peer, from.Port()); err == nil && saw != want {
			err = fmt.Errorf("%s asked %s %s: %s was seen, not %s", ns, network, addr, saw, want)
		}
		return err
	}
}

// noBroadcast expects that a service of the host does not get a broadcast.
func noBroadcast(host, ns *lab.NS, port int) probe {
	return func(time.Duration) error {
		service, err := host.ListenPacket("udp", at(netip.IPv4Unspecified(), port))
		if err != nil {
			return err
		}
		defer func() { _ = service.Close() }()
		c, err := ns.ListenPacket("udp", ":0") // package net sets SO_BROADCAST
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		to := netip.AddrPortFrom(mustAddr("192.0.2.255"), uint16(port))
		if _, err := c.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(to)); err != nil {
			return err
		}
		if err := service.SetReadDeadline(time.Now().Add(silence)); err != nil {
			return err
		}
		if _, from, err := service.ReadFrom(make([]byte, 16)); err == nil {
			return fmt.Errorf("%s got a broadcast to port %d from %s", host, port, from)
		}
		return nil
	}
}
