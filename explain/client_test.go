// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/explain/internal/host"
	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/nat"
)

// A query without a client is about one that stands for all.
func TestTypicalClient(t *testing.T) {
	for _, c := range []struct{ name, mapping, ask, client, frontend string }{
		{"uplink", "8080->172.30.0.2:80", "8080", "192.0.2.2", "192.0.2.1:8080"},
		{"one address", "198.51.100.1:8080->172.30.0.2:80", "198.51.100.1:8080", "198.51.100.2", "198.51.100.1:8080"},
		{"loopback", "127.0.0.1:8080->172.30.0.2:80", "127.0.0.1:8080", "127.0.0.1", "127.0.0.1:8080"},
		{"IPv6", "8080->[fd30::2]:80", "8080", "2001:db8::2", "[2001:db8::1]:8080"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t, c.mapping)
			r := s.ask(t, c.ask)
			require.Equal(t, c.client, r.Client.String(), r.Text())
			require.Equal(t, c.frontend, r.Frontend.String())
			require.NotEmpty(t, r.Typical)
		})
	}
	t.Run("default route", func(t *testing.T) {
		s := newScene(t, "8080->172.30.0.2:80")
		s.route("0.0.0.0/0", "198.51.100.2", eth1, netip.MustParseAddr("198.51.100.1"))
		r := s.ask(t, "8080")
		require.Equal(t, elsewhere4, r.Client)
		require.Equal(t, "198.51.100.1:8080", r.Frontend.String())
		require.Equal(t, Passes, r.Verdict, r.Text())
	})
}

// By which interface a client asks: where its neighbour entry is, before the frontend's address, before
// the route. What would be different by another one is noted.
func TestClientInterface(t *testing.T) {
	from := netip.MustParseAddr("203.0.113.2")
	filter := func(s *scene) {
		s.route("203.0.113.0/24", "198.51.100.2", eth1, netip.Addr{})
		s.fault = func(q host.RouteQuery) *host.RouteFault {
			if q.Src != from || q.Iif != eth0 {
				return nil
			}
			return &host.RouteFault{Kind: host.FaultRPFilter, Thing: "net.ipv4.conf.eth0.rp_filter = 1"}
		}
	}
	s := newScene(t, "8080->172.30.0.2:80")
	filter(s)
	require.Equal(t, Passes, s.ask(t, "8080 from 203.0.113.2").Verdict, "by the route")

	r := s.stopped(t, "192.0.2.1:8080 from 203.0.113.2", KindSysctl, "net.ipv4.conf.eth0.rp_filter = 1")
	require.Contains(t, r.Notes[0], "if it asks by eth1 (as the route to it says)")

	s = newScene(t, "8080->172.30.0.2:80")
	filter(s)
	s.neighbours = append(s.neighbours, &host.Neighbour{Addr: from, Link: eth0, State: unix.NUD_REACHABLE, MAC: []byte{2, 0, 0, 0, 9, 9}})
	s.stopped(t, "8080 from 203.0.113.2", KindSysctl, "net.ipv4.conf.eth0.rp_filter = 1")

	s = newScene(t, "8080->172.30.0.2:80")
	filter(s)
	s.filtered = 3
	s.settings["net.ipv4.conf.eth0.rp_filter"] = 1
	r = s.ask(t, "8080 from 203.0.113.2")
	require.Equal(t, Uncertain, r.Verdict, "packets were dropped")
	require.False(t, r.Cause.Certain)
}

// Clients that only a proxy serves.
func TestProxied(t *testing.T) {
	proxy := func(s *scene) {
		s.sockets = append(s.sockets, &host.Socket{Proto: unix.IPPROTO_TCP, Addr: netip.MustParseAddrPort("[::]:8080"), Process: &host.Process{PID: 12, Command: "nftnat"}})
	}
	for _, from := range []string{"127.0.0.1", "::1", "2001:db8::2", "fe80::2%eth0"} {
		t.Run(from, func(t *testing.T) {
			s := newScene(t, "8080->172.30.0.2:80")
			proxy(s)
			r := s.ask(t, "8080 from "+from)
			require.Equal(t, Passes, r.Verdict, r.Text())
			require.Equal(t, ByProxy, r.Path)
			require.Equal(t, "172.30.0.1", r.Source.String())
		})
	}
	gate := table(unix.NFPROTO_INET, "gate", "arriving", unix.NF_INET_LOCAL_IN, 0)
	for _, c := range []struct {
		name, kind, thing string
		inject            func(s *scene)
	}{
		{"input", KindPolicy, "table inet gate, chain arriving", func(s *scene) { s.rules.stop = dropAt(gate, nil, eval.Input, request) }},
		{"to the backend", KindRule, "table inet gate, chain arriving", func(s *scene) {
			s.rules.stop = dropAt(gate, &rules.Rule{}, eval.Output, func(p *eval.Packet) bool { return request(p) && p.Dst == s.mapping.Backend.Addr() })
		}},
		{"from the backend", KindRule, "table inet gate, chain arriving", func(s *scene) {
			s.rules.stop = dropAt(gate, &rules.Rule{}, eval.Input, func(p *eval.Packet) bool { return answer(p) && p.In.Name == "br0" })
		}},
		{"to the client", KindRule, "table inet gate, chain arriving", func(s *scene) {
			s.rules.stop = dropAt(gate, &rules.Rule{}, eval.Output, func(p *eval.Packet) bool { return answer(p) })
		}},
		{"another program", KindSocket, `"nginx"`, func(s *scene) { s.sockets[0].Process.Command = "nginx" }},
		{"stopped", KindSocket, "nftnat", func(s *scene) { s.sockets[0].Process.PID = stoppedPID }},
		{"queue", KindSocket, "nftnat", func(s *scene) { s.sockets[0].Queue, s.sockets[0].Limit = 129, 128 }},
		{"--no-proxy", KindTable, "table inet nftnat", func(s *scene) { s.mapping.NoProxy = true }},
		{"nothing listens", KindBackend, "backend 172.30.0.2:80", func(s *scene) { s.probe.Answer = host.Refused }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t, "8080->172.30.0.2:80")
			proxy(s)
			c.inject(s)
			s.stopped(t, "8080 from 2001:db8::2", c.kind, c.thing)
		})
	}
}

// Rules see whose the proxy's packets are.
func TestProxyOwner(t *testing.T) {
	s := newScene(t, "8080->172.30.0.2:80")
	s.sockets = append(s.sockets, &host.Socket{Proto: unix.IPPROTO_TCP, Addr: netip.MustParseAddrPort("[::]:8080"), Process: &host.Process{PID: 12, Command: "nftnat"}})
	sent := 0
	s.rules.stop = func(h eval.Hook, p *eval.Packet) []eval.Outcome {
		if h == eval.Output && (request(p) || answer(p)) && p.OwnerKnown && p.UID == 33 && p.GID == 34 {
			sent++
		}
		return nil
	}
	r := s.ask(t, "8080 from 2001:db8::2")
	require.Equal(t, Passes, r.Verdict, r.Text())
	require.GreaterOrEqual(t, sent, 2, "to the backend and to the client")
}

// What a rule of the mapping itself keeps out.
func TestOnlyFrom(t *testing.T) {
	s := newScene(t, "8080->172.30.0.2:80")
	var err error
	s.mapping.From, err = nat.ParseSources("10.0.0.0/8")
	require.NoError(t, err)
	own := table(unix.NFPROTO_INET, "nftnat", "only-from", 0, -100)
	s.rules.stop = dropAt(own, &rules.Rule{}, eval.Prerouting, request)
	r := s.stopped(t, "8080 from 192.0.2.2", KindClient, "table inet nftnat, chain only-from")
	require.Equal(t, "nftnat add tcp 8080 172.30.0.2:80 --replace --from 10.0.0.0/8 --from 192.0.2.2", r.Cause.Remedy)
}

// The namespace of the backend is followed too.
func TestBackendNamespace(t *testing.T) {
	wall := table(unix.NFPROTO_INET, "wall", "in", unix.NF_INET_LOCAL_IN, 0)
	for _, c := range []struct {
		name, thing string
		inject      func(p *fakePeer)
	}{
		{"healthy", "", func(*fakePeer) {}},
		{"no route", "backend 172.30.0.2: no route to 192.0.2.2", func(p *fakePeer) { p.routes = p.routes[:len(p.routes)-1] }},
		{"firewall", "backend 172.30.0.2: table inet wall, chain in", func(p *fakePeer) { p.stop = dropAt(wall, nil, eval.Input, request) }},
		{"another router", "backend 172.30.0.2: default via 172.30.0.9", func(p *fakePeer) {
			p.routes = p.routes[:len(p.routes)-1]
			p.route("0.0.0.0/0", "172.30.0.9", eth0, netip.MustParseAddr("172.30.0.2"))
		}},
		{"on its own link", "backend 172.30.0.2: 192.0.2.0/24 dev eth0", func(p *fakePeer) {
			p.route("192.0.2.0/24", "", eth0, netip.MustParseAddr("172.30.0.2"))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t, "8080->172.30.0.2:80")
			s.peer = newPeer()
			c.inject(s.peer)
			if c.thing == "" {
				require.Equal(t, Passes, s.ask(t, "8080 from 192.0.2.2").Verdict)
				return
			}
			r := s.ask(t, "8080 from 192.0.2.2")
			require.Equal(t, Stopped, r.Verdict, r.Text())
			require.Contains(t, r.Cause.Thing, c.thing)
		})
	}
}

// A host that answers for the router of its backends, as some container networks have it.
func TestProxyARP(t *testing.T) {
	s := newScene(t, "8080->172.30.0.2:80")
	s.peer = newPeer()
	s.peer.routes = s.peer.routes[:len(s.peer.routes)-1]
	s.peer.route("0.0.0.0/0", "169.254.1.1", eth0, netip.MustParseAddr("172.30.0.2"))
	require.Equal(t, Stopped, s.ask(t, "8080 from 192.0.2.2").Verdict)
	s.settings["net.ipv4.conf.br0.proxy_arp"] = 1
	r := s.ask(t, "8080 from 192.0.2.2")
	require.Equal(t, Passes, r.Verdict, r.Text())
}

// An address of another link is asked for at the host's own: no client asks for it by ARP.
func TestARPIgnore(t *testing.T) {
	s := newScene(t, "8080->172.30.0.2:80")
	s.settings["net.ipv4.conf.eth0.arp_ignore"] = 1
	s.neighbours = append(s.neighbours, &host.Neighbour{Addr: netip.MustParseAddr("192.0.2.2"), Link: eth0, State: unix.NUD_REACHABLE, MAC: []byte{2, 0, 0, 0, 9, 9}})
	r := s.ask(t, "172.30.0.1:8080 from 192.0.2.2")
	require.Equal(t, Passes, r.Verdict, r.Text())
}

// Where the backend is another machine, connection tracking remembers whom it has not answered.
func TestRemembered(t *testing.T) {
	s := newScene(t, "8080->172.30.0.2:80")
	s.settings["net/netfilter/nf_conntrack_tcp_timeout_syn_sent"] = 120
	s.settings["net/netfilter/nf_conntrack_tcp_timeout_time_wait"] = 120
	entry := func(state string, timeout, status uint32) *host.Entry {
		return &host.Entry{State: state, Timeout: timeout, Status: status, Reply: host.Tuple{Src: s.mapping.Backend.Addr(), SrcPort: 80}}
	}
	s.entries = []*host.Entry{entry("SYN_SENT", 118, 0)}
	s.stopped(t, "8080 from 192.0.2.2", KindBackend, "no way back to 192.0.2.2")
	s.entries = []*host.Entry{entry("SYN_SENT", 60, 0)}
	require.Equal(t, Passes, s.ask(t, "8080 from 192.0.2.2").Verdict, "long ago")
	s.entries = []*host.Entry{entry("SYN_SENT", 110, 0), entry("TIME_WAIT", 119, eval.SeenReply)}
	require.Equal(t, Passes, s.ask(t, "8080 from 192.0.2.2").Verdict, "answered since")
	s.entries = []*host.Entry{entry("TIME_WAIT", 110, eval.SeenReply), entry("SYN_SENT", 119, 0)}
	require.Equal(t, Stopped, s.ask(t, "8080 from 192.0.2.2").Verdict, "not answered since")
	s.entries = nil
	require.Equal(t, Passes, s.ask(t, "8080 from 192.0.2.2").Verdict)
}

// A way that cannot be known makes a verdict uncertain, but not where all ways end.
func TestUncertain(t *testing.T) {
	c := table(unix.NFPROTO_INET, "corpwall", "passing", unix.NF_INET_FORWARD, 0)
	limit := &rules.Rule{Chain: c}
	may := func(p *eval.Packet) []eval.Outcome {
		return []eval.Outcome{
			{End: eval.Accepted, Packet: *p, If: []eval.Unknown{{Rule: limit, Reason: "a limit"}}},
			{End: eval.Dropped, Packet: *p, By: limit, Chain: c, If: []eval.Unknown{{Rule: limit, Reason: "a limit"}}},
		}
	}
	s := newScene(t, "8080->172.30.0.2:80")
	s.rules.stop = func(h eval.Hook, p *eval.Packet) []eval.Outcome {
		if h == eval.Forward && request(p) {
			return may(p)
		}
		return nil
	}
	r := s.ask(t, "8080 from 192.0.2.2")
	require.Equal(t, Uncertain, r.Verdict, r.Text())
	require.Equal(t, "may drop a new connection from eth0 to br0, depending on a limit", r.Cause.What)
	require.False(t, r.Cause.Certain)

	s.probe.Answer = host.Refused
	r = s.stopped(t, "8080 from 192.0.2.2", KindBackend, "backend 172.30.0.2:80")
	require.Len(t, r.Others, 1, r.Text())
}

// XDP cannot be read.
func TestXDP(t *testing.T) {
	s := newScene(t, "8080->172.30.0.2:80")
	s.links[eth0-1].XDP = []host.XDP{{Mode: "driver", Program: 7}}
	r := s.ask(t, "8080 from 192.0.2.2")
	require.Equal(t, Uncertain, r.Verdict)
	require.Contains(t, r.Text(), "XDP program 7 (driver) of eth0")
}

// The host's own rules may keep it from asking the backend: then silence says nothing.
func TestNotAsked(t *testing.T) {
	c := table(unix.NFPROTO_INET, "wall", "out", unix.NF_INET_LOCAL_OUT, 0)
	s := newScene(t, "8080->172.30.0.2:80")
	s.probe.Answer = host.Silent
	s.rules.stop = dropAt(c, nil, eval.Output, func(p *eval.Packet) bool { return p.EtherType != unix.ETH_P_ARP })
	require.Equal(t, Passes, s.ask(t, "8080 from 192.0.2.2").Verdict)
	require.Zero(t, s.probed)
}
