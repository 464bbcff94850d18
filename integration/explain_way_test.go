// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/explain"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// explained asks what becomes of a packet: "tcp 8080", from a client or a typical one.
func explained(t *testing.T, ns *lab.NS, proto, frontend, from string) explain.Report {
	t.Helper()
	finder, err := engine.OpenFinder(engine.FinderOptions{NetNS: ns.Path()})
	require.NoError(t, err)
	defer func() { require.NoError(t, finder.Close()) }()
	e, err := explain.New(explain.Options{NetNS: ns.Path(), Mappings: finder, ProbeTimeout: 500 * time.Millisecond})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	p, err := nat.ParseProto(proto)
	require.NoError(t, err)
	q := explain.Query{Proto: p}
	q.Frontend, _, err = nat.ParseFrontend(frontend)
	require.NoError(t, err)
	if from != "" {
		q.From = netip.MustParseAddr(from)
	}
	r, err := e.Explain(t.Context(), q)
	require.NoError(t, err)
	return r
}

// answered reports whether a connection from a machine to an address and port is answered.
func answered(t *testing.T, from *lab.NS, to string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	_, _, err := lab.Ask(ctx, from, "tcp", to, netip.AddrPort{})
	return err == nil
}

// Faults that are injected one after the other into one host.
func TestExplainFaults(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2 | lab.PartFar, Forwarding: true})
	e := open(t, top.Host, engine.Options{})
	publish(t, e, "8080->172.30.0.2:80", "192.0.2.9:8081->172.30.0.2:80")
	labtest.EchoTCP(t, top.Backend1, "backend1", ":80")
	labtest.EchoTCP(t, top.Backend2, "backend2", ":81")
	host := func(t *testing.T, commands ...string) {
		t.Helper()
		for _, c := range commands {
			if text, ok := strings.CutPrefix(c, "nft "); ok {
				labtest.ExecInput(t, top.Host, text+"\n", "nft", "-f", "-")
				continue
			}
			labtest.Exec(t, top.Host, "sh", "-c", c)
		}
	}
	for _, f := range []struct {
		name         string
		inject, undo string
		frontend     string
		from         string
		kind, thing  string
	}{
		{"healthy", "true", "true", "8080", "192.0.2.2", "", ""},
		{"typical client", "true", "true", "8080", "", "", ""},
		{"forwarding off", "sysctl -qw net.ipv4.conf.lan0.forwarding=0", "sysctl -qw net.ipv4.conf.lan0.forwarding=1", "8080", "192.0.2.2", explain.KindSysctl, "forwarding"},
		{"blackhole route", "ip route add blackhole 172.30.0.2/32", "ip route del blackhole 172.30.0.2/32", "8080", "192.0.2.2", explain.KindRoute, "blackhole 172.30.0.2"},
		{"answers led elsewhere", "ip rule add from 172.30.0.2 lookup 99; ip route add default via 198.51.100.2 dev far0 table 99", "ip rule del from 172.30.0.2; ip route flush table 99", "8080", "192.0.2.2", explain.KindRoute, "default via 198.51.100.2 dev far0"},
		{"drop policy", "nft table inet corpwall { chain passing { type filter hook forward priority filter; policy drop; ct state established,related accept; iifname br0 accept; }; }", "nft delete table inet corpwall", "8080", "192.0.2.2", explain.KindPolicy, "table inet corpwall, chain passing (hook forward, priority filter): policy drop"},
		{"answers dropped", "nft table inet corpwall { chain passing { type filter hook forward priority filter; policy drop; iifname lan0 accept; }; }", "nft delete table inet corpwall", "8080", "192.0.2.2", explain.KindPolicy, "table inet corpwall, chain passing (hook forward, priority filter): policy drop"},
		{"rival", "nft table ip elder { chain early { type nat hook prerouting priority dstnat - 10; tcp dport 8080 dnat to 172.30.0.3:81; }; }", "nft delete table ip elder", "8080", "192.0.2.2", explain.KindRival, "table ip elder, chain early"},
		{"notrack", "nft table inet speedup { chain untrack { type filter hook prerouting priority raw; tcp dport 8000-9000 notrack; }; }", "nft delete table inet speedup", "8080", "192.0.2.2", explain.KindRule, "table inet speedup, chain untrack"},
		{"netdev", "nft table netdev scrub { chain in { type filter hook ingress device lan0 priority 0; tcp dport 8080 drop; }; }", "nft delete table netdev scrub", "8080", "192.0.2.2", explain.KindRule, "table netdev scrub, chain in"},
		{"netdev, not the first packet", "nft table netdev scrub { chain in { type filter hook ingress device lan0 priority 0; tcp flags & (fin|syn|rst|ack) != syn drop; }; }", "nft delete table netdev scrub", "8080", "192.0.2.2", explain.KindRule, "table netdev scrub, chain in"},
		{"tc", "tc qdisc add dev lan0 clsact; tc filter add dev lan0 ingress protocol ip bpf da bytecode '1,6 0 0 2'", "tc qdisc del dev lan0 clsact", "8080", "192.0.2.2", explain.KindTC, "lan0"},
		{"dormant", "nft table inet corpwall { flags dormant; chain passing { type filter hook forward priority filter; policy drop; }; }", "nft delete table inet corpwall", "8080", "192.0.2.2", "", ""},
		{"ipsec", "ip xfrm policy add src 0.0.0.0/0 dst 192.0.2.1/32 dir fwd action block", "ip xfrm policy flush", "8080", "192.0.2.2", explain.KindIPsec, "dst 192.0.2.1/32 dir fwd action block"},
		{"ipsec, of the translated packet", "ip xfrm policy add src 0.0.0.0/0 dst 172.30.0.2/32 dir fwd action block", "ip xfrm policy flush", "8080", "192.0.2.2", "", ""},
		{"ipsec, answers", "ip xfrm policy add src 172.30.0.2/32 dst 0.0.0.0/0 dir fwd action block", "ip xfrm policy flush", "8080", "192.0.2.2", explain.KindIPsec, "dir fwd action block"},
		{"ipsec, on the way out", "ip xfrm policy add src 0.0.0.0/0 dst 172.30.0.2/32 dir out action block", "ip xfrm policy flush", "8080", "192.0.2.2", explain.KindIPsec, "dir out action block"},
		{"address gone", "ip addr del 192.0.2.9/24 dev lan0", "ip addr add 192.0.2.9/24 dev lan0", "192.0.2.9:8081", "192.0.2.2", explain.KindAddress, "192.0.2.9 is no address of this host"},
		{"sibling", "true", "true", "8080", "172.30.0.3", "", ""},
		{"itself", "true", "true", "8080", "172.30.0.2", "", ""},
		{"host", "true", "true", "8080", "192.0.2.1", "", ""},
	} {
		t.Run(f.name, func(t *testing.T) {
			host(t, f.inject)
			t.Cleanup(func() { host(t, f.undo) })
			start := time.Now()
			r := explained(t, top.Host, "tcp", f.frontend, f.from)
			t.Logf("%s\n%s", time.Since(start), r.Text())
			if f.kind == "" {
				require.Equal(t, explain.Passes, r.Verdict)
				if f.from == "192.0.2.2" {
					require.True(t, answered(t, top.Client, "192.0.2.1:8080"))
				}
				return
			}
			require.Equal(t, explain.Stopped, r.Verdict)
			require.Equal(t, f.kind, r.Cause.Kind)
			require.Contains(t, r.Cause.Thing, f.thing)
			if f.from == "192.0.2.2" && f.kind != explain.KindRival {
				to := f.frontend
				if to == "8080" {
					to = "192.0.2.1:8080"
				}
				require.False(t, answered(t, top.Client, to))
			}
		})
	}
}
