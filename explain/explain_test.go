// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/explain/internal/host"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/nat"
)

func TestPasses(t *testing.T) {
	for _, from := range []string{"", " from 192.0.2.2", " from 172.30.0.3", " from 172.30.0.2", " from 192.0.2.1"} {
		t.Run(from, func(t *testing.T) {
			s := newScene(t, "8080->172.30.0.2:80")
			r := s.ask(t, "8080"+from)
			t.Log(r.Text())
			for _, l := range s.rules.seen {
				t.Log(l)
			}
			require.Equal(t, Passes, r.Verdict, "%s", r.Text())
			require.Equal(t, ByNetfilter, r.Path)
		})
	}
}

// Where a port is published for each family, the mapping of the client's is explained.
func TestFamilies(t *testing.T) {
	s := newScene(t, "0.0.0.0:8080->172.30.0.2:80")
	s.stopped(t, "8080 from 2001:db8::2", KindClient, "2001:db8::2 is an IPv6 address")
	four, six := s.mapping, nattest.Mapping(t, "[::]:8080->[fd30::2]:80")
	s.others, s.rules.backend = []nat.Mapping{six}, six.Backend
	r := s.ask(t, "8080 from 2001:db8::2")
	require.Equal(t, Passes, r.Verdict, "%s", r.Text())
	require.Equal(t, six, r.Mapping)
	s.rules.backend = four.Backend
	for _, ask := range []string{"8080", "8080 from 192.0.2.2"} {
		r = s.ask(t, ask)
		require.Equal(t, Passes, r.Verdict, "%s", r.Text())
		require.Equal(t, four, r.Mapping)
	}
}

// Of the mappings of one port each is examined.
func TestDoctorOfFamilies(t *testing.T) {
	s := newScene(t, "[::]:8080->[fd30::2]:80")
	forward := table(unix.NFPROTO_INET, "corpwall", "passing", unix.NF_INET_FORWARD, 0)
	s.rules.stop = dropAt(forward, nil, eval.Forward, request)
	for _, others := range [][]nat.Mapping{nil, {nattest.Mapping(t, "0.0.0.0:8080->172.30.0.2:80")}} {
		d, err := s.explainer().Doctor(t.Context(), Examination{Mappings: slices.Values(append(others, s.mapping))})
		require.NoError(t, err)
		require.True(t, slices.ContainsFunc(d.Findings, func(f Finding) bool {
			return f.Kind == KindPolicy && slices.Contains(f.Mappings, s.mapping)
		}), "%v", d.Findings)
	}
}

// A rule of others, as dockerd's, that leads to the backend of a mapping with a proxy alone is no rival.
func TestProxyOnlyBesideRule(t *testing.T) {
	s := newScene(t, "8080->172.30.0.2:80")
	s.mapping.ProxyOnly = true
	s.rules.rule.Chain = table(unix.NFPROTO_IPV4, "nat", "DOCKER", 0, -100)
	r := s.ask(t, "8080 from 192.0.2.2")
	require.Equal(t, Passes, r.Verdict, "%s", r.Text())
	require.Equal(t, ByNetfilter, r.Path)
}

// stopped asks and expects a stop.
func (s *scene) stopped(t *testing.T, ask, kind, thing string) Report {
	t.Helper()
	r := s.ask(t, ask)
	require.Equal(t, Stopped, r.Verdict, "%s", r.Text())
	require.Equal(t, kind, r.Cause.Kind, "%s", r.Text())
	require.Contains(t, r.Cause.Thing, thing, "%s", r.Text())
	require.True(t, r.Cause.Certain)
	require.LessOrEqual(t, strings.Count(r.Text(), "\n"), 40)
	return r
}

// dropAt drops at a hook what matches.
func dropAt(c *rules.Chain, r *rules.Rule, at eval.Hook, match func(p *eval.Packet) bool) func(eval.Hook, *eval.Packet) []eval.Outcome {
	return func(h eval.Hook, p *eval.Packet) []eval.Outcome {
		if h == at && match(p) {
			return dropped(p, c, r)
		}
		return nil
	}
}

func request(p *eval.Packet) bool { return p.EtherType != unix.ETH_P_ARP && p.TCPFlags == tcpSYN }
func answer(p *eval.Packet) bool  { return p.TCPFlags == tcpSYN|tcpACK }
func later(p *eval.Packet) bool   { return p.TCPFlags == tcpACK }

// What stops a packet is named, and with it a remedy.
func TestStopped(t *testing.T) {
	forward := table(unix.NFPROTO_INET, "corpwall", "passing", unix.NF_INET_FORWARD, 0)
	for _, c := range []struct {
		name, ask, kind, thing, remedy string
		inject                         func(s *scene)
	}{
		{"policy", "8080 from 192.0.2.2", KindPolicy, "table inet corpwall, chain passing (hook forward, priority filter): policy drop", `nft insert rule inet corpwall passing iifname "eth0" oifname "br0" ct status dnat accept`, func(s *scene) {
			s.rules.stop = dropAt(forward, nil, eval.Forward, request)
		}},
		{"answer", "8080 from 192.0.2.2", KindPolicy, "table inet corpwall, chain passing", "nft insert rule inet corpwall passing ct state established,related accept", func(s *scene) {
			s.rules.stop = dropAt(forward, nil, eval.Forward, answer)
		}},
		{"third packet", "8080 from 192.0.2.2", KindPolicy, "table inet corpwall, chain passing", "", func(s *scene) {
			s.rules.stop = dropAt(forward, nil, eval.Forward, later)
		}},
		{"docker", "8080 from 192.0.2.2", KindPolicy, "table ip filter, chain FORWARD (hook forward, priority filter): policy drop", "iptables -I DOCKER-USER -i eth0 -o br0 -m conntrack --ctstate DNAT -j ACCEPT", func(s *scene) {
			c := table(unix.NFPROTO_IPV4, "filter", "FORWARD", unix.NF_INET_FORWARD, 0)
			c.Table.Chains = append(c.Table.Chains, &rules.Chain{Table: c.Table, Name: "DOCKER-USER"})
			s.rules.stop = dropAt(c, nil, eval.Forward, request)
		}},
		{"legacy", "8080 from 192.0.2.2", KindPolicy, "iptables-legacy table filter, chain FORWARD: policy DROP", "iptables-legacy -I FORWARD", func(s *scene) {
			c := table(unix.NFPROTO_IPV4, "filter", "FORWARD", unix.NF_INET_FORWARD, 0)
			c.Table.Legacy = true
			s.rules.stop = dropAt(c, nil, eval.Forward, request)
		}},
		{"arp", "8080 from 192.0.2.2", KindRule, "table arp quiet, chain in", "", func(s *scene) {
			c := table(unix.NFPROTO_ARP, "quiet", "in", 0, 0)
			s.rules.stop = dropAt(c, &rules.Rule{}, eval.ArpInput, func(*eval.Packet) bool { return true })
		}},
		{"fault", "8080 from 192.0.2.2", KindRoute, "blackhole 172.30.0.2", "ip route del blackhole 172.30.0.2", func(s *scene) {
			s.fault = func(q host.RouteQuery) *host.RouteFault {
				if q.Dst != s.mapping.Backend.Addr() {
					return nil
				}
				return &host.RouteFault{Kind: host.FaultRoute, Thing: "blackhole 172.30.0.2", Remedy: "ip route del blackhole 172.30.0.2"}
			}
		}},
		{"rival", "8080 from 192.0.2.2", KindRival, "table ip elder, chain early", "nft delete rule ip elder early handle 3", func(s *scene) {
			c := table(unix.NFPROTO_IPV4, "elder", "early", 0, -110)
			s.rules.stop = func(h eval.Hook, p *eval.Packet) []eval.Outcome {
				if h != eval.Prerouting || !request(p) {
					return nil
				}
				o := eval.Outcome{Packet: *p, Translated: &rules.Rule{Chain: c, Handle: 3}}
				o.Packet.DstPort = 81
				return []eval.Outcome{o}
			}
		}},
		{"nothing listens", "8080 from 192.0.2.2", KindBackend, "backend 172.30.0.2:80", "", func(s *scene) { s.probe.Answer = host.Refused }},
		{"silent", "8080 from 192.0.2.2", KindBackend, "backend 172.30.0.2:80", "", func(s *scene) { s.probe.Answer = host.Silent }},
		{"away", "8080 from 192.0.2.2", KindNeighbour, "172.30.0.2 dev br0", "", func(s *scene) { s.probe.Answer = host.NoNeighbour }},
		{"address", "192.0.2.7:8080 from 192.0.2.2", KindAddress, "192.0.2.7 is no address of this host", "ip address add 192.0.2.7/32 dev eth0", func(*scene) {}},
		{"other family", "192.0.2.1:8080 from 2001:db8::2", KindClient, "2001:db8::2 is an IPv6 address", "", func(*scene) {}},
		{"no proxy", "8080 from 2001:db8::2", KindTable, "table inet nftnat", "nftnat serve", func(*scene) {}},
		{"loopback, no proxy", "8080 from 127.0.0.1", KindTable, "table inet nftnat", "", func(*scene) {}},
		{"full", "8080 from 192.0.2.2", KindConntrack, "1000 of 1000", "sysctl -w net.netfilter.nf_conntrack_max=2000", func(s *scene) {
			s.ct = &host.Conntrack{Count: 1000, Max: 1000, Drop: 7}
		}},
		{"tc", "8080 from 192.0.2.2", KindTC, "", "tc filter del dev eth0 ingress pref 7", func(s *scene) { s.tc["2/false"] = host.TCDrops }},
		{"tc of the port", "8080 from 192.0.2.2", KindTC, "", "tc filter del dev vb1 egress", func(s *scene) { s.tc["4/true"] = host.TCDrops }},
		{"port of the bridge", "8080 from 192.0.2.2", KindBridge, "bridge port vb1 of br0: state blocking", "bridge link set dev vb1 state 3", func(s *scene) { s.links[vb1-1].Port.State = 4 }},
		{"arp_ignore", "192.0.2.77:8080 from 192.0.2.2", KindSysctl, "net.ipv4.conf.eth0.arp_ignore = 1", "", func(s *scene) {
			s.address(eth1, "192.0.2.77/32")
			s.settings["net.ipv4.conf.eth0.arp_ignore"] = 1
			s.neighbours = append(s.neighbours, &host.Neighbour{Addr: netip.MustParseAddr("192.0.2.2"), Link: eth0, State: 2, MAC: []byte{2, 0, 0, 0, 9, 9}})
		}},
		{"mtu", "8080 from 192.0.2.2", KindMTU, "interface br0: mtu 1400, below 1500 of eth0; and table inet corpwall, chain passing", "", func(s *scene) {
			s.links[br0-1].MTU = 1400
			s.rules.stop = dropAt(forward, &rules.Rule{}, eval.Output, func(p *eval.Packet) bool { return p.Proto == unix.IPPROTO_ICMP })
		}},
		{"hairpin", "8080 from 172.30.0.3", KindBackend, "backend 172.30.0.2:80", "--masquerade", func(s *scene) { s.rules.keepSource = true }},
		{"flushed fdb", "8080 from 172.30.0.3", KindBridge, "bridge br0: no entry of its own address", "bridge fdb add", func(s *scene) { s.lostOwnAddress = true }},
		{"translated before", "8080 from 192.0.2.2", KindPolicy, "table inet corpwall", "nft insert rule inet corpwall passing ip daddr 172.30.0.2 tcp dport 80 accept", func(s *scene) {
			s.rules.stop = func(h eval.Hook, p *eval.Packet) []eval.Outcome {
				if h != eval.Prerouting || !request(p) {
					return nil
				}
				q := *p
				q.Dst, q.DstPort = s.mapping.Backend.Addr(), 80
				return dropped(&q, forward, nil)
			}
		}},
		{"wrong route", "8080 from 192.0.2.2", KindRoute, "172.30.0.2/32 via 198.51.100.2 dev eth1", "ip route del 172.30.0.2/32 via 198.51.100.2 dev eth1", func(s *scene) {
			s.route("172.30.0.2/32", "198.51.100.2", eth1, netip.Addr{})
			s.probe.Answer = host.Silent
		}},
		{"bridge down", "8080 from 192.0.2.2", KindLink, "interface br0: down", "ip link set dev br0 up", func(s *scene) {
			s.links[br0-1].Flags, s.links[br0-1].Carrier = 0, false
			s.routes = slices.DeleteFunc(s.routes, func(r *host.Route) bool { return r.Oif == br0 })
			s.route("0.0.0.0/0", "198.51.100.2", eth1, netip.Addr{})
			s.probe.Answer = host.Silent
		}},
		{"route gone", "8080 from 192.0.2.2", KindRoute, "default via 198.51.100.2 dev eth1", "ip route add 172.30.0.0/24 dev br0", func(s *scene) {
			s.routes = slices.DeleteFunc(s.routes, func(r *host.Route) bool { return r.Oif == br0 })
			s.route("0.0.0.0/0", "198.51.100.2", eth1, netip.Addr{})
			s.probe.Answer = host.NoNeighbour
		}},
		{"hardware address of another", "8080 from 192.0.2.2", KindNeighbour, "neighbour 172.30.0.2 dev br0", "ip neigh del 172.30.0.2 dev br0", func(s *scene) {
			n := &host.Neighbour{Addr: s.mapping.Backend.Addr(), Link: br0, State: unix.NUD_PERMANENT, MAC: []byte("backend"), Text: "172.30.0.2 dev br0 PERMANENT"}
			s.neighbours = append(s.neighbours, n)
			s.probe.Answer = host.Silent
		}},
		{"no flood", "8080 from 192.0.2.2", KindBridge, "bridge port vb1 of br0: flood off", "bridge link set dev vb1 flood on", func(s *scene) {
			s.links[vb1-1].Port.Flood = false
			s.neighbours = append(s.neighbours, &host.Neighbour{Addr: s.mapping.Backend.Addr(), Link: br0, State: unix.NUD_PROBE, MAC: []byte{2}})
			s.probe.Answer, s.peer = host.NoNeighbour, newPeer()
		}},
		{"another zone", "8080 from 192.0.2.2", KindRule, "table inet split, chain zones", "nft delete rule inet split zones handle 4", func(s *scene) {
			zone := &rules.Rule{Handle: 4, Chain: table(unix.NFPROTO_INET, "split", "zones", 0, -300), Exprs: []rules.Expr{rules.CT{Set: true, Key: unix.NFT_CT_ZONE}}}
			s.rules.stop = func(h eval.Hook, p *eval.Packet) []eval.Outcome {
				if h != eval.Prerouting || !answer(p) {
					return nil
				}
				o := eval.Outcome{Packet: *p, Steps: []eval.Step{{Rule: zone}}}
				o.Packet.CT = eval.Conn{Seen: true, State: eval.Invalid}
				return []eval.Outcome{o}
			}
		}},
		{"no ARP", "8080 from 192.0.2.2", KindLink, "interface br0: NOARP", "ip link set dev br0 arp on", func(s *scene) {
			s.links[br0-1].Flags |= unix.IFF_NOARP
			s.neighbours = append(s.neighbours, &host.Neighbour{Addr: s.mapping.Backend.Addr(), Link: br0, State: unix.NUD_NOARP, MAC: []byte{2, 0, 0, 0, 0, br0}})
			s.probe.Answer = host.Silent
		}},
		{"led elsewhere", "8080 from 192.0.2.2", KindRoute, "default via 198.51.100.2 dev eth1", "", func(s *scene) {
			s.instead = func(q host.RouteQuery) *host.Route {
				if q.Src != s.mapping.Backend.Addr() {
					return nil
				}
				return &host.Route{Type: unix.RTN_UNICAST, Table: 99, Oif: eth1, Gateway: netip.MustParseAddr("198.51.100.2"), Text: "default via 198.51.100.2 dev eth1 in table 99"}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t, "8080->172.30.0.2:80")
			c.inject(s)
			r := s.stopped(t, c.ask, c.kind, c.thing)
			t.Log(r.Text())
			require.Contains(t, r.Cause.Remedy, c.remedy)
		})
	}
}

// A rule for the port of a service meets answers too whose client has that port, which is worth a note.
// A wide range of ports is more.
func TestFewPorts(t *testing.T) {
	chain := table(unix.NFPROTO_INET, "corpwall", "passing", unix.NF_INET_FORWARD, 0)
	for last, verdict := range map[uint16]Verdict{51820: Passes, 60000: Uncertain} {
		s := newScene(t, "8080->172.30.0.2:80")
		s.rules.stop = func(h eval.Hook, p *eval.Packet) []eval.Outcome {
			if h != eval.Forward || !answer(p) {
				return nil
			}
			require.Equal(t, ephemeral, p.Ports)
			unknown := []eval.Unknown{{Reason: eval.ClientPort}}
			o := dropped(p, chain, &rules.Rule{})
			o[0].If, o[0].Packet.Ports = unknown, eval.PortRange{First: 51820, Last: last}
			return append(o, eval.Outcome{Packet: *p, If: unknown})
		}
		r := s.ask(t, "8080 from 192.0.2.2")
		require.Equal(t, verdict, r.Verdict, r.Text())
		require.Contains(t, r.Text(), "depending on the client's port")
	}
}
