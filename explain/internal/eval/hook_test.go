// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

// order returns the names of the chains that ran at a hook, in order: each sets a mark, and so is a step.
func inOrder(t *testing.T, rs *ruleset, h Hook, p Packet) string {
	t.Helper()
	mark := uint32(100)
	for _, tb := range rs.Tables {
		for _, c := range tb.Chains {
			mark++
			c.Rules = []*rules.Rule{{Chain: c, Exprs: setMark(mark)}}
		}
	}
	var names []string
	for _, s := range one(t, rs, h, p).Steps {
		names = append(names, s.Chain.Name)
	}
	return strings.Join(names, " ")
}

func TestHooks(t *testing.T) {
	rs := &ruleset{}
	inet := rs.table(unix.NFPROTO_INET, "inet")
	base(inet, "ingress", "filter", nfInetIngress, 5, codeAccept).Base.Devices = []string{"eth0"}
	base(inet, "pre", "filter", unix.NF_INET_PRE_ROUTING, -150, codeAccept)
	base(inet, "post", "filter", unix.NF_INET_POST_ROUTING, 0, codeAccept)
	ip := rs.table(unix.NFPROTO_IPV4, "ip")
	base(ip, "pre4", "filter", unix.NF_INET_PRE_ROUTING, -300, codeAccept)
	base(ip, "pre4late", "filter", unix.NF_INET_PRE_ROUTING, -150, codeAccept)
	base(rs.table(unix.NFPROTO_IPV6, "ip6"), "pre6", "filter", unix.NF_INET_PRE_ROUTING, 0, codeAccept)
	bridge := rs.table(unix.NFPROTO_BRIDGE, "bridge")
	base(bridge, "bridgeforward", "filter", 2, 0, codeAccept)
	base(bridge, "bridgeout", "filter", 3, 0, codeAccept)
	base(rs.table(unix.NFPROTO_ARP, "arp"), "arpin", "filter", 0, 0, codeAccept)
	netdev := rs.table(unix.NFPROTO_NETDEV, "netdev")
	base(netdev, "in", "filter", 0, 0, codeAccept).Base.Devices = []string{"br0", "eth*"}
	base(netdev, "in1", "filter", 0, 10, codeAccept).Base.Devices = []string{"eth1"}
	base(netdev, "out", "filter", 1, 0, codeAccept).Base.Devices = []string{"eth1"}
	p := seen(syn())
	p.Out = Interface{Index: 3, Name: "eth1"}
	arp := with(p, func(p *Packet) { p.EtherType = unix.ETH_P_ARP })
	for _, tt := range []struct {
		h    Hook
		p    Packet
		want string
	}{
		{Ingress, p, "in ingress"},
		{Ingress, with(p, func(p *Packet) { p.In.Name = "eth1" }), "in in1"},
		{Ingress, arp, "in"},
		{Ingress, with(p, func(p *Packet) { p.In.Name = "wlan0" }), ""},
		{Prerouting, p, "pre4 pre4late pre"},
		{Prerouting, six(p), "pre pre6"},
		{Input, p, ""},
		{Forward, p, ""},
		{Output, p, ""},
		{Postrouting, p, "post"},
		{Egress, p, "out"},
		{BridgePrerouting, p, ""},
		{BridgeForward, p, "bridgeforward"},
		{BridgeForward, arp, "bridgeforward"},
		{BridgeOutput, p, "bridgeout"},
		{ArpInput, arp, "arpin"},
		{ArpOutput, arp, ""},
	} {
		t.Run(fmt.Sprint(tt.h, tt.p.EtherType, tt.p.In.Name), func(t *testing.T) {
			require.Equal(t, tt.want, inOrder(t, rs, tt.h, tt.p))
		})
	}
}

// The nat chains run where the nat hook is, whatever their priority.
func TestNatHook(t *testing.T) {
	rs := &ruleset{}
	tb := rs.table(unix.NFPROTO_INET, "t")
	base(tb, "late", "filter", unix.NF_INET_PRE_ROUTING, -99, codeAccept)
	base(tb, "nat", "nat", unix.NF_INET_PRE_ROUTING, 300, codeAccept)
	base(tb, "natfirst", "nat", unix.NF_INET_PRE_ROUTING, 200, codeAccept)
	base(tb, "early", "filter", unix.NF_INET_PRE_ROUTING, -101, codeAccept)
	require.Equal(t, "early natfirst nat late", inOrder(t, rs, Prerouting, syn()))
	p := seen(syn())
	p.CT.State = Established
	require.Equal(t, "early late", inOrder(t, rs, Prerouting, p), "of the first packet only")
	p = seen(syn())
	p.CT.Status = DstNATDone
	require.Equal(t, "early late", inOrder(t, rs, Prerouting, p), "the connection has been through")
}

func TestLegacyOrder(t *testing.T) {
	rs := &ruleset{}
	nft := rs.table(unix.NFPROTO_IPV4, "nft")
	base(nft, "c", "nat", unix.NF_INET_PRE_ROUTING, -100, codeAccept, dnat("172.30.0.2", 80))
	legacy := rs.table(unix.NFPROTO_IPV4, "nat")
	legacy.Legacy, legacy.Handle = true, 0
	c := base(legacy, "PREROUTING", "nat", unix.NF_INET_PRE_ROUTING, -100, codeAccept, rule(saddr("10.0.0.1"), dnat("172.30.0.3", 80)))
	require.Equal(t, "172.30.0.2", one(t, rs, Prerouting, syn()).Packet.Dst.String(), "it does not matter")
	c.Rules[0].Exprs = dnat("172.30.0.3", 80)
	out := runs1(t, rs, Prerouting, syn())
	require.Len(t, out, 2)
	require.Contains(t, out[0].If[0].Reason, "order")
	nft.Chains[0].Base.Priority--
	require.Equal(t, "172.30.0.2", one(t, rs, Prerouting, syn()).Packet.Dst.String())
	nft.Chains[0].Base.Priority++
	c.Rules = nil
	base(nft, "later", "filter", unix.NF_INET_PRE_ROUTING, 101, codeAccept, rule(dport(80), setMark(7)))
	require.Equal(t, uint32(7), one(t, rs, Prerouting, syn()).Packet.Mark, "chains of other priorities are in order")
}

// The nat hook stays while any nat chain needs it, and may be older than all of them: a table that was
// replaced in one transaction leaves it where it was.
func TestOrderOfNatHook(t *testing.T) {
	rs := &ruleset{}
	elder := rs.table(unix.NFPROTO_INET, "elder")
	c := base(elder, "c", "filter", unix.NF_INET_POST_ROUTING, 100, codeAccept, rule(saddr("192.0.2.2"), setMark(7)))
	younger := rs.table(unix.NFPROTO_INET, "younger")
	snat := dnat("10.0.0.1", 0)
	snat[2] = rules.Nat{Type: unix.NFT_NAT_SNAT, Family: unix.NFPROTO_IPV4, AddrMin: reg}
	nat := base(younger, "nat", "nat", unix.NF_INET_POST_ROUTING, 90, codeAccept, snat)
	out := runs1(t, rs, Postrouting, seen(syn()))
	require.Len(t, out, 2)
	require.Contains(t, out[0].If[0].Reason, "order")
	// A nat chain of any hook brings the hook with it.
	oldest := rs.table(unix.NFPROTO_INET, "oldest")
	oldest.Handle = 0
	base(oldest, "pre", "nat", unix.NF_INET_PRE_ROUTING, -100, codeAccept)
	require.Equal(t, uint32(7), one(t, rs, Postrouting, seen(syn())).Packet.Mark)
	oldest.Chains = nil
	c.Base.Priority++
	require.Zero(t, one(t, rs, Postrouting, seen(syn())).Packet.Mark)
	nat.Rules = nil
	require.Equal(t, uint32(7), one(t, rs, Postrouting, seen(syn())).Packet.Mark)
}

// Connection tracking leaves out the discovery of neighbours, and before it nothing has a state.
func TestNeighboursAreUntracked(t *testing.T) {
	p := six(syn())
	p.Proto, p.ICMPType, p.CT = unix.IPPROTO_ICMPV6, 135, Conn{}
	for priority, state := range map[int32]uint32{-300: Invalid, -150: 1 << 6} {
		rs := &ruleset{}
		base(rs.table(unix.NFPROTO_IPV6, "t"), "c", "filter", unix.NF_INET_PRE_ROUTING, priority, codeAccept, rule(ctState(state), setMark(7)))
		require.Equal(t, uint32(7), one(t, rs, Prerouting, p).Packet.Mark, priority)
	}
}

func TestReroute(t *testing.T) {
	rs := &ruleset{}
	tb := rs.table(unix.NFPROTO_IPV4, "t")
	c := base(tb, "c", "route", unix.NF_INET_LOCAL_OUT, -150, codeAccept, setMark(7))
	p := with(seen(syn()), func(p *Packet) { p.Local = true })
	require.True(t, one(t, rs, Output, p).Reroute)
	p.Mark = 7
	require.False(t, one(t, rs, Output, p).Reroute)
	p.Mark = 0
	c.Base.Type = "filter"
	require.False(t, one(t, rs, Output, p).Reroute)
	c.Base.Type, c.Base.Priority = "nat", -100
	c.Rules[0].Exprs = dnat("172.30.0.2", 80)
	o := one(t, rs, Output, p)
	require.True(t, o.Reroute)
	require.Equal(t, "172.30.0.2", o.Packet.Dst.String())
}

func TestConntrack(t *testing.T) {
	rs := &ruleset{}
	tb := rs.table(unix.NFPROTO_INET, "t")
	raw := base(tb, "raw", "filter", unix.NF_INET_PRE_ROUTING, -300, codeAccept)
	base(tb, "c", "filter", unix.NF_INET_PRE_ROUTING, 0, codeAccept, rule(ctState(Invalid), drop))
	established := seen(syn())
	established.CT.State, established.CT.Seen = Established, false
	answer := with(syn(), func(p *Packet) { p.TCPFlags = tcpSYN | tcpACK })
	for _, tt := range []struct {
		name string
		p    Packet
		want End
	}{
		{"SYN", syn(), Accepted},
		{"SYN, ACK of no connection", answer, Dropped},
		{"RST of no connection", with(syn(), func(p *Packet) { p.TCPFlags = tcpRST }), Dropped},
		{"FIN of no connection", with(syn(), func(p *Packet) { p.TCPFlags = tcpFIN | tcpACK }), Dropped},
		{"ACK of no connection", with(syn(), func(p *Packet) { p.TCPFlags = tcpACK }), Accepted},
		{"SYN, ACK", with(established, func(p *Packet) { p.TCPFlags = tcpSYN | tcpACK }), Accepted},
		{"datagram", udp(syn()), Accepted},
	} {
		t.Run(tt.name, func(t *testing.T) { require.Equal(t, tt.want, one(t, rs, Prerouting, tt.p).End) })
	}
	zone := []byte{9, 0}
	raw.Rules = []*rules.Rule{{Chain: raw, Exprs: []rules.Expr{rules.Immediate{Dreg: reg, Data: zone}, rules.CT{Key: unix.NFT_CT_ZONE, Set: true, Sreg: reg}}}}
	o := one(t, rs, Prerouting, syn())
	require.EqualValues(t, 9, o.Packet.CT.Zone)
	established.TCPFlags = tcpSYN | tcpACK
	require.Equal(t, Dropped, one(t, rs, Prerouting, established).End, "the connection is of another zone")
	established.CT.Zone = 9
	require.Equal(t, Accepted, one(t, rs, Prerouting, established).End)
	raw.Rules = nil
	require.Equal(t, Dropped, one(t, rs, Prerouting, established).End)
	established.CT.ZoneDirs, established.CT.Reply = 1, true
	require.Equal(t, Accepted, one(t, rs, Prerouting, established).End, "answers are of no zone")
}

func TestQueue(t *testing.T) {
	rs := &ruleset{}
	tb := rs.table(unix.NFPROTO_INET, "t")
	base(tb, "c", "filter", unix.NF_INET_FORWARD, 0, codeAccept, []rules.Expr{rules.Queue{First: 1}})
	require.ElementsMatch(t, []End{Queued, Accepted}, ends(runs1(t, rs, Forward, seen(syn()))))
	base(tb, "later", "filter", unix.NF_INET_FORWARD, 10, codeDrop)
	require.ElementsMatch(t, []End{Queued, Dropped}, ends(runs1(t, rs, Forward, seen(syn()))))
	later := tb.Chains[1]
	later.Base.Policy = codeAccept
	rs.facts.queues = map[uint16]bool{1: true}
	require.ElementsMatch(t, []End{Queued, Accepted}, ends(runs1(t, rs, Forward, seen(syn()))))
	rs.facts.queues = map[uint16]bool{2: true}
	o := one(t, rs, Forward, seen(syn()))
	require.Equal(t, Dropped, o.End, "no program takes it")
	require.Equal(t, tb.Chains[0].Rules[0], o.By)
	tb.Chains[0].Rules[0].Exprs = []rules.Expr{rules.Queue{First: 1, Flags: unix.NFT_QUEUE_FLAG_BYPASS}}
	require.Equal(t, Accepted, one(t, rs, Forward, seen(syn())).End)
	tb.Chains[0].Rules[0].Exprs = []rules.Expr{rules.Queue{First: 1, Total: 2}}
	require.ElementsMatch(t, []End{Queued, Accepted, Dropped}, ends(runs1(t, rs, Forward, seen(syn()))))
}

func TestTranslations(t *testing.T) {
	imm := func(n int, b []byte) rules.Expr { return rules.Immediate{Dreg: reg + rules.Register(n), Data: b} }
	addr := func(s string) []byte { return netip.MustParseAddr(s).AsSlice() }
	out := with(seen(syn()), func(p *Packet) {
		p.Out = Interface{Index: 3, Name: "br0", Addresses: []netip.Prefix{
			netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("192.0.2.254/24"), netip.MustParsePrefix("fe80::1/64"),
			netip.MustParsePrefix("2001:db8:1::1/64"),
		}}
	})
	in := with(syn(), func(p *Packet) {
		p.In.Addresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64"), netip.MustParsePrefix("fe80::1/64")}
	})
	known := with(out, func(p *Packet) { p.SrcPort, p.CT.Original.SrcPort, p.CT.Answer.DstPort = 5000, 5000, 5000 })
	for _, tt := range []struct {
		name     string
		h        Hook
		p        Packet
		list     []rules.Expr
		src, dst string // of the packet
	}{
		{"dnat of the port alone", Prerouting, in, []rules.Expr{imm(0, be16(81)), rules.Nat{Type: unix.NFT_NAT_DNAT, PortMin: reg}}, "192.0.2.2:0", "192.0.2.1:81"},
		{"dnat of the address alone", Prerouting, in, []rules.Expr{imm(0, addr("10.1.1.1")), rules.Nat{Type: unix.NFT_NAT_DNAT, AddrMin: reg}}, "192.0.2.2:0", "10.1.1.1:8080"},
		{"dnat to a range that has the port", Prerouting, in, []rules.Expr{imm(0, be16(8000)), imm(1, be16(9000)), rules.Nat{Type: unix.NFT_NAT_DNAT, PortMin: reg, PortMax: reg + 1}}, "192.0.2.2:0", "192.0.2.1:8080"},
		{"dnat of a network", Prerouting, in, []rules.Expr{imm(0, addr("10.1.1.0")), imm(1, addr("10.1.1.255")), rules.Nat{Type: unix.NFT_NAT_DNAT, AddrMin: reg, AddrMax: reg + 1, Flags: unix.NF_NAT_RANGE_NETMAP}}, "192.0.2.2:0", "10.1.1.1:8080"},
		{"redirect", Prerouting, in, []rules.Expr{imm(0, be16(81)), rules.Redir{PortMin: reg}}, "192.0.2.2:0", "192.0.2.1:81"},
		{"redirect of IPv6", Prerouting, six(in), []rules.Expr{rules.Redir{}}, "[2001:db8::2]:0", "[2001:db8::1]:8080"},
		{"redirect of link-local", Prerouting, with(six(in), func(p *Packet) { p.Src = netip.MustParseAddr("fe80::2") }), []rules.Expr{rules.Redir{}}, "[fe80::2]:0", "[fe80::1]:8080"},
		{"redirect of what the host sends", Output, in, []rules.Expr{rules.Redir{}}, "192.0.2.2:0", "127.0.0.1:8080"},
		{"masquerade", Postrouting, out, []rules.Expr{rules.Masq{}}, "192.0.2.254:0", "192.0.2.1:8080"},
		{"masquerade by a router", Postrouting, with(out, func(p *Packet) {
			p.Dst, p.CT.Original.Dst, p.CT.Answer.Src = netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("8.8.8.8")
		}), []rules.Expr{rules.Masq{}}, "10.0.0.1:0", "8.8.8.8:8080"},
		{"masquerade keeps the port", Postrouting, known, []rules.Expr{rules.Masq{}}, "192.0.2.254:5000", "192.0.2.1:8080"},
		{"masquerade at random", Postrouting, known, []rules.Expr{rules.Masq{Flags: unix.NF_NAT_RANGE_PROTO_RANDOM}}, "192.0.2.254:0", "192.0.2.1:8080"},
		{"snat", Postrouting, known, []rules.Expr{imm(0, addr("10.1.1.1")), imm(1, be16(99)), rules.Nat{Type: unix.NFT_NAT_SNAT, AddrMin: reg, PortMin: reg + 1}}, "10.1.1.1:99", "192.0.2.1:8080"},
		{"snat at input", Input, known, []rules.Expr{imm(0, addr("10.1.1.1")), rules.Nat{Type: unix.NFT_NAT_SNAT, AddrMin: reg}}, "10.1.1.1:5000", "192.0.2.1:8080"},
		{"dnat at postrouting", Postrouting, known, dnat("10.1.1.1", 1), "192.0.2.2:5000", "192.0.2.1:8080"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rs := &ruleset{}
			base(rs.table(unix.NFPROTO_INET, "t"), "c", "nat", tt.h.number(), 0, codeAccept, tt.list)
			p := tt.p
			if p.CT.Seen && tt.p.EtherType == unix.ETH_P_IPV6 {
				p = seen(p)
			}
			o := one(t, rs, tt.h, p)
			require.Equal(t, tt.src, netip.AddrPortFrom(o.Packet.Src, o.Packet.SrcPort).String())
			require.Equal(t, tt.dst, netip.AddrPortFrom(o.Packet.Dst, o.Packet.DstPort).String())
		})
	}

	rs := &ruleset{}
	tb := rs.table(unix.NFPROTO_INET, "t")
	c := base(tb, "c", "nat", unix.NF_INET_PRE_ROUTING, 0, codeAccept,
		[]rules.Expr{imm(0, addr("10.1.1.1")), imm(1, addr("10.1.1.2")), rules.Nat{Type: unix.NFT_NAT_DNAT, AddrMin: reg, AddrMax: reg + 1}})
	require.Len(t, runs1(t, rs, Prerouting, in), 2, "one of two addresses")
	c.Rules[0].Exprs[1] = imm(1, addr("10.2.1.2"))
	require.Equal(t, []End{Unclear}, ends(runs1(t, rs, Prerouting, in)), "one of many")
	c.Rules[0].Exprs = []rules.Expr{rules.Redir{}}
	in.In.Addresses = in.In.Addresses[1:]
	require.Equal(t, Dropped, one(t, rs, Prerouting, in).End, "to no address")
}

// A chain that many jump to runs once for each state of the packet.
func TestJumps(t *testing.T) {
	rs := &ruleset{}
	tb := rs.table(unix.NFPROTO_INET, "t")
	chain(tb, "c0", counter)
	for i := range 15 {
		to := fmt.Sprintf("c%d", i)
		var list [][]rules.Expr
		for range 50 {
			list = append(list, jump(to))
		}
		chain(tb, fmt.Sprintf("c%d", i+1), list...)
	}
	base(tb, "c", "filter", unix.NF_INET_FORWARD, 0, codeDrop, jump("c15"), accept)
	start := time.Now()
	require.Equal(t, Accepted, one(t, rs, Forward, seen(syn())).End)
	require.Less(t, time.Since(start), time.Second)

	loop := chain(tb, "loop", jump("loop"))
	tb.Chains = []*rules.Chain{loop, base(tb, "d", "filter", unix.NF_INET_FORWARD, 0, codeDrop, jump("loop"))}
	require.Equal(t, []End{Unclear}, ends(runs1(t, rs, Forward, seen(syn()))), "which the kernel does not load")
}

func TestUnreadable(t *testing.T) {
	rs := &ruleset{}
	base(rs.table(unix.NFPROTO_INET, "t"), "c", "filter", unix.NF_INET_FORWARD, 0, codeDrop)
	rs.facts.fail = errors.New("no permission")
	_, err := Run(&rs.Ruleset, Forward, syn(), &rs.facts)
	require.EqualError(t, err, "read chain c of table inet t: no permission")
}

// Steps and reasons say what decided, and not what made no difference.
func TestReasons(t *testing.T) {
	rs := &ruleset{}
	tb := rs.table(unix.NFPROTO_INET, "t")
	chain(tb, "limits", rule(limit, counter), rule(limit, setMark(1)), rule(dport(8080), limit, drop))
	c := base(tb, "c", "filter", unix.NF_INET_FORWARD, 0, codeDrop, rule(limit, jump("nothing")), jump("limits"), rule(iifname("eth0"), accept))
	chain(tb, "nothing", counter, verdict(codeReturn))
	var drops, accepts int
	for _, o := range runs1(t, rs, Forward, seen(syn())) {
		if o.End == Dropped {
			drops++
			require.Equal(t, tb.Chains[0].Rules[2], o.By)
			require.Equal(t, c.Rules[1], o.Steps[0].Rule)
		} else {
			accepts++
			require.Equal(t, Accepted, o.End)
			require.Equal(t, c.Rules[2], o.By)
		}
		for _, u := range o.If {
			require.Equal(t, tb.Chains[0], u.Rule.Chain)
			require.NotEqual(t, 0, u.Rule.Index, "a counter makes no difference")
		}
	}
	require.Equal(t, 1, drops)
	require.Equal(t, 2, accepts, "with two marks")
}
