// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/rules"
)

// TestPrintBridge: rules that ebtables made are printed among expressions of nft(8).
func TestPrintBridge(t *testing.T) {
	ns := labtest.NewNS(t, "bridge")
	tests := []struct{ rule, want string }{
		{"-p IPv4 --ip-dst 172.30.0.2 --ip-proto tcp --ip-dport 80 -j DROP", "ether type ip ip daddr 172.30.0.2 tcp dport 80 counter drop"},
		{"-p IPv4 --ip-src ! 192.0.2.0/24 --ip-proto ! udp -j DROP", "ether type ip ip saddr != 192.0.2.0/24 ip protocol != udp counter drop"},
		{"-p IPv4 --ip-proto udp --ip-sport ! 5:9 -j ACCEPT", "ether type ip udp sport != 5-9 counter accept"},
		{"-p IPv4 --ip-proto icmp --ip-icmp-type 8/0 -j ACCEPT", "ether type ip icmp type 8 icmp code 0 counter accept"},
		{"-p IPv6 --ip6-dst 2001:db8::/64 --ip6-proto tcp -j DROP", "ether type ip6 ip6 daddr 2001:db8::/64 ip6 nexthdr tcp counter drop"},
		{"-p ARP --arp-op 1 --arp-ip-dst 172.30.0.2 -j DROP", "ether type arp --arp-op Request --arp-ip-dst 172.30.0.2 counter drop"},
		{"--pkttype-type ! broadcast -j ACCEPT", "meta pkttype != broadcast counter accept"},
		{"--mark 1/3 -j ACCEPT", "meta mark & 0x3 0x1 counter accept"},
		{"! --mark 5 -j ACCEPT", "meta mark != 0x5 counter accept"},
		{"--mark /5 -j ACCEPT", "meta mark & 0x5 != 0x0 counter accept"},
		{"-p 802_1Q --vlan-id 5 -j ACCEPT", "ether type 8021q --vlan-id 5 counter accept"},
		{"-j mark --mark-or 0x5 --mark-target CONTINUE", "counter -j mark --mark-or 0x5 --mark-target CONTINUE"},
		{"--nflog -j CONTINUE", "--nflog-group 1 counter"},
	}
	for _, test := range tests {
		labtest.Exec(t, ns, "ebtables-nft", append([]string{"-A", "FORWARD"}, strings.Fields(test.rule)...)...)
	}
	labtest.Exec(t, ns, "ebtables-nft", strings.Fields("-t nat -A PREROUTING -j dnat --to-destination 02:00:00:00:00:09")...)
	labtest.Exec(t, ns, "ebtables-nft", strings.Fields("-t nat -A POSTROUTING -j snat --to-source 02:00:00:00:00:09 --snat-target DROP")...)
	f, err := os.Open(ns.Path())
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	r, err := rules.Open(int(f.Fd()))
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	rs, err := r.Read(t.Context())
	require.NoError(t, err)
	p := rules.Printer{XT: Printer{}}
	have := map[string][]string{}
	for _, table := range rs.Tables {
		for _, c := range table.Chains {
			list, err := r.Rules(c)
			require.NoError(t, err)
			for _, rule := range list {
				have[c.Name] = append(have[c.Name], p.Rule(rule))
			}
		}
	}
	require.Len(t, have["FORWARD"], len(tests))
	for i, test := range tests {
		require.Equal(t, test.want, have["FORWARD"][i], test.rule)
	}
	require.Equal(t, []string{"counter -j dnat --to-dst 02:00:00:00:00:09 --dnat-target ACCEPT"}, have["PREROUTING"])
	require.Equal(t, []string{"counter -j snat --to-src 02:00:00:00:00:09 --snat-target DROP"}, have["POSTROUTING"])
}
