// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"testing"
	"time"

	"github.com/nftnat/nftnat/explain/report"
)

// eighteenFaults are those of docs/troubleshooting.md.
func eighteenFaults() []fault {
	return []fault{
		{
			name:   "Forwarding is off",
			inject: "host: sysctl -qw net.ipv4.conf.lan0.forwarding=0",
			undo:   "host: sysctl -qw net.ipv4.conf.lan0.forwarding=1",
			direct: true,
			meets:  meetsNothing, kind: report.KindSysctl, thing: []string{"net.ipv4.conf.lan0.forwarding"},
			words: "The daemon turns it on again within a second, unless it runs with `--no-sysctl`; this was published with `--direct`.",
		},
		{
			name:   "A route discards the packet",
			inject: "host: ip route add blackhole 172.30.0.2/32",
			undo:   "host: ip route del blackhole 172.30.0.2/32",
			meets:  meetsNothing, kind: report.KindRoute, thing: []string{"blackhole 172.30.0.2"},
			words: "With `unreachable` and `prohibit` the client is told so.",
		},
		{
			name:   "Answers leave by another way",
			inject: "host: ip rule add from 172.30.0.2 lookup 99\nhost: ip route add default via 198.51.100.2 dev far0 table 99",
			undo:   "host: ip rule del from 172.30.0.2 lookup 99\nhost: ip route flush table 99",
			meets:  meetsNothing, kind: report.KindRoute, thing: []string{"default via 198.51.100.2 dev far0", "99"},
		},
		{
			name:   "The reverse path filter drops",
			inject: "host: ip route add 203.0.113.0/24 via 198.51.100.2 dev far0\nhost: ip neigh replace 203.0.113.2 lladdr 02:00:00:00:00:07 dev lan0 nud permanent\nhost: sysctl -qw net.ipv4.conf.lan0.rp_filter=1\nclient: ip addr add 203.0.113.2/32 dev eth0\nclient: ip route replace 192.0.2.9 dev eth0 src 203.0.113.2",
			undo:   "client: ip route del 192.0.2.9 dev eth0\nclient: ip addr del 203.0.113.2/32 dev eth0\nhost: sysctl -qw net.ipv4.conf.lan0.rp_filter=0\nhost: ip neigh del 203.0.113.2 dev lan0\nhost: ip route del 203.0.113.0/24",
			ask:    "192.0.2.9:8081", explain: "tcp 192.0.2.9:8081 --from 203.0.113.2",
			meets: meetsNothing, kind: report.KindSysctl, thing: []string{"net.ipv4.conf.lan0.rp_filter"},
		},
		{
			name:   "Long packets are lost",
			inject: "host: ip link set br0 mtu 1400\nhost: nft 'table inet icmpfree { chain out { type filter hook output priority filter; icmp type destination-unreachable drop; }; }'",
			undo:   "host: nft 'delete table inet icmpfree'\nhost: ip link set br0 mtu 1500",
			meets:  meetsHalf, kind: report.KindMTU, thing: []string{"icmpfree"},
			words: "Without such a rule the host tells the client, which then sends smaller packets.",
		},
		{
			name:   "A chain drops what it does not know",
			inject: `host: nft 'table inet corpwall { chain passing { type filter hook forward priority filter; policy drop; ct state established,related accept; iifname "br0" accept; }; }'`,
			undo:   "host: nft 'delete table inet corpwall'",
			meets:  meetsNothing, kind: report.KindPolicy, thing: []string{"table inet corpwall", "chain passing", "policy drop"},
		},
		{
			name:   "iptables-legacy drops",
			inject: "host: iptables-legacy -P FORWARD DROP",
			undo:   "host: iptables-legacy -P FORWARD ACCEPT",
			meets:  meetsNothing, kind: report.KindPolicy, thing: []string{"iptables-legacy", "FORWARD", "DROP"},
			words: "`nft list ruleset` and `iptables -S` (of iptables-nft) do not show these rules.",
		},
		{
			name:   "Docker drops what is not its own",
			inject: "host: iptables -N DOCKER-USER\nhost: iptables -N DOCKER-FORWARD\nhost: iptables -A FORWARD -j DOCKER-USER\nhost: iptables -A FORWARD -j DOCKER-FORWARD\nhost: iptables -A DOCKER-FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nhost: iptables -A DOCKER-FORWARD -i docker0 -j ACCEPT\nhost: iptables -P FORWARD DROP",
			undo:   "host: iptables -P FORWARD ACCEPT\nhost: iptables -F\nhost: iptables -X",
			meets:  meetsNothing, kind: report.KindPolicy, thing: []string{"table ip filter", "chain FORWARD"},
		},
		{
			name:   "An input chain drops what the proxy would serve",
			inject: "host: nft 'table inet gate { chain arriving { type filter hook input priority filter; policy drop; iif lo accept; ct state established,related accept; meta l4proto ipv6-icmp accept; tcp dport { 22, 443 } accept; }; }'",
			undo:   "host: nft 'delete table inet gate'",
			ask:    "[2001:db8:1::1]:8080", explain: "tcp [2001:db8:1::1]:8080 --from 2001:db8:1::2",
			meets: meetsNothing, kind: report.KindPolicy, thing: []string{"table inet gate", "chain arriving", "policy drop"},
			words: "The backend has IPv4 alone, so that a proxy of the host serves clients of IPv6. Clients of IPv4 do not come by the input chain, and are answered.",
		},
		{
			name:   "Another table translates the port first",
			inject: "host: nft 'table ip elder { chain early { type nat hook prerouting priority dstnat - 10; tcp dport 8080 dnat to 172.30.0.3:81; }; }'",
			undo:   "host: nft 'delete table ip elder'",
			meets:  meetsOther, kind: report.KindRival, thing: []string{"table ip elder", "chain early", "172.30.0.3:81"},
		},
		{
			name:   "Packets are not tracked",
			inject: "host: nft 'table inet speedup { chain untrack { type filter hook prerouting priority raw; tcp dport 8000-9000 notrack; }; }'",
			undo:   "host: nft 'delete table inet speedup'",
			direct: true,
			meets:  meetsRefusal, kind: report.KindRule, thing: []string{"table inet speedup", "chain untrack", "notrack"},
			words: "This was published with `--direct`. With a daemon the proxy serves such clients, as the host, and explain says so.",
		},
		{
			name:   "A netdev chain drops",
			inject: `host: nft 'table netdev scrub { chain lan0in { type filter hook ingress device "lan0" priority 0; tcp dport 8080 drop; }; }'`,
			undo:   "host: nft 'delete table netdev scrub'",
			meets:  meetsNothing, kind: report.KindRule, thing: []string{"table netdev scrub", "chain lan0in", "tcp dport 8080 drop"},
		},
		{
			name:   "A filter of tc drops",
			inject: "host: tc qdisc add dev lan0 clsact\nhost: tc filter add dev lan0 ingress protocol ip bpf da bytecode '1,6 0 0 2'",
			undo:   "host: tc qdisc del dev lan0 clsact",
			meets:  meetsNothing, kind: report.KindTC, thing: []string{"lan0", "ingress"},
		},
		{
			name: "Nothing listens",
			run: func(t *testing.T, b *faultBed) {
				t.Helper()
				b.succeed(t, "add tcp 8080 172.30.0.2:79 --replace")
			},
			stop: func(t *testing.T, b *faultBed) {
				t.Helper()
				b.succeed(t, "add tcp 8080 172.30.0.2:80 --replace")
			},
			meets: meetsRefusal, kind: report.KindBackend, thing: []string{"172.30.0.2:79"},
			words: "The mapping is `8080->172.30.0.2:79`, where no server is.",
		},
		{
			name:   "The backend is away",
			inject: "backend: ip addr del 172.30.0.2/24 dev eth0\nhost: ip neigh flush dev br0",
			undo:   "backend: ip addr add 172.30.0.2/24 dev eth0\nbackend: ip route add default via 172.30.0.1\nhost: ip neigh flush dev br0",
			meets:  meetsNothing, kind: report.KindNeighbour, thing: []string{"172.30.0.2", "br0"},
			words: "After three seconds the client is told that there is no route to the host.",
		},
		{
			name:   "The backend has no way back",
			inject: "backend: ip route del default",
			// The age of connections is known in seconds: the one that was answered has to be older.
			run:   func(t *testing.T, _ *faultBed) { t.Helper(); time.Sleep(1100 * time.Millisecond) },
			undo:  "backend: ip route add default via 172.30.0.1",
			meets: meetsNothing, kind: report.KindBackend, thing: []string{"172.30.0.2"},
			words: "The host itself is answered, for it is on the backend's link.",
		},
		{
			name:   "The frontend's address is gone",
			inject: "host: ip addr del 192.0.2.9/24 dev lan0",
			undo:   "host: ip addr add 192.0.2.9/24 dev lan0",
			ask:    "192.0.2.9:8081", explain: "tcp 192.0.2.9:8081 --from 192.0.2.2",
			meets: meetsNothing, kind: report.KindAddress, thing: []string{"192.0.2.9"},
		},
		{
			name:  "The table of connections is full",
			run:   func(t *testing.T, b *faultBed) { t.Helper(); fillConntrack(t, b.Host) },
			undo:  "host: conntrack -F",
			meets: meetsNothing, kind: report.KindConntrack, thing: []string{"262144"},
			words: "Entries that are not assured give way to new ones; these were.",
		},
	}
}
