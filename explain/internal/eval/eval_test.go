// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/internal/rules/xt"
)

// facts are those of tables that a test builds.
type facts struct {
	elements map[*rules.Set][]rules.Element
	fib      func(p *Packet, hook, flags, result uint32) ([]byte, error)
	objects  map[string]rules.Object
	fail     error
	queues   map[uint16]bool // nil: not known
}

func (f *facts) Queue(number uint16) (bool, error) {
	if f.queues == nil {
		return false, errors.New("no queues")
	}
	return f.queues[number], nil
}

func (f *facts) Rules(c *rules.Chain) ([]*rules.Rule, error) { return c.Rules, f.fail }

func (f *facts) Get(s *rules.Set, key []byte) (rules.Element, bool, error) {
	var rest *rules.Element
	for _, e := range intervals(s, f.elements[s]) {
		if e.CatchAll {
			rest = &e.Element
			continue
		}
		in, begin := true, 0
		fields := s.FieldLens
		if len(fields) == 0 {
			fields = []int{len(key)}
		}
		for _, n := range fields {
			k := key[begin : begin+n]
			in = in && bytes.Compare(k, e.from[begin:begin+n]) >= 0 && bytes.Compare(k, e.to[begin:begin+n]) <= 0
			begin += (n + 3) &^ 3
		}
		if in {
			return e.Element, true, nil
		}
	}
	if rest != nil {
		return *rest, true, nil
	}
	return rules.Element{}, false, nil
}

func (f *facts) Elements(s *rules.Set, limit int) ([]rules.Element, bool, error) {
	list := f.elements[s]
	return list[:min(limit, len(list))], len(list) > limit, nil
}

func (f *facts) Object(_ *rules.Table, _ uint32, name string) (rules.Object, error) {
	o, ok := f.objects[name]
	if !ok {
		return o, errors.New("no such object")
	}
	return o, nil
}

func (f *facts) Fib(p *Packet, hook, flags, result uint32) ([]byte, error) {
	if f.fib == nil {
		return nil, errors.New("no routes")
	}
	return f.fib(p, hook, flags, result)
}

func (f *facts) IPsec() (bool, error) { return true, nil }

func (f *facts) IPSet(uint16, xt.SetQuery) (bool, error) {
	return false, errors.New("no sets of ipset")
}

func (f *facts) Recent(string) ([]xt.RecentEntry, error) { return nil, errors.New("no lists") }

// ruleset is built by tests.
type ruleset struct {
	rules.Ruleset
	facts facts
}

func (rs *ruleset) table(family rules.Family, name string) *rules.Table {
	t := &rules.Table{Family: family, Name: name, Handle: uint64(len(rs.Tables) + 1), Sets: map[string]*rules.Set{}}
	rs.Tables = append(rs.Tables, t)
	return t
}

func base(t *rules.Table, name, typ string, hook uint32, priority int32, policy int32, list ...[]rules.Expr) *rules.Chain {
	c := chain(t, name, list...)
	c.Base = &rules.Base{Type: typ, Hook: hook, Priority: priority, Policy: policy}
	return c
}

func chain(t *rules.Table, name string, list ...[]rules.Expr) *rules.Chain {
	c := &rules.Chain{Table: t, Name: name, Handle: uint64(len(t.Chains)*100 + 1)}
	for i, x := range list {
		c.Rules = append(c.Rules, &rules.Rule{Chain: c, Handle: c.Handle + uint64(i) + 1, Index: i, Exprs: x})
	}
	t.Chains = append(t.Chains, c)
	return c
}

func (rs *ruleset) set(t *rules.Table, s rules.Set, list ...rules.Element) {
	s.Table = t
	t.Sets[s.Name] = &s
	if rs.facts.elements == nil {
		rs.facts.elements = map[*rules.Set][]rules.Element{}
	}
	rs.facts.elements[&s] = list
}

var reg = rules.Register(4)

func rule(list ...[]rules.Expr) []rules.Expr {
	var all []rules.Expr
	for _, l := range list {
		all = append(all, l...)
	}
	return all
}

func verdict(code int32, target ...string) []rules.Expr {
	d := &rules.Decision{Code: code}
	if len(target) > 0 {
		d.Chain = target[0]
	}
	return []rules.Expr{rules.Immediate{Dreg: rules.Verdict, Decision: d}}
}

var (
	accept = verdict(codeAccept)
	drop   = verdict(codeDrop)
)

func jump(to string) []rules.Expr { return verdict(codeJump, to) }

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
func he32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func load(baseOf uint32, offset, n int) rules.Expr {
	return rules.Payload{Base: baseOf, Offset: offset, Len: n, Dreg: reg}
}

func is(data ...byte) rules.Expr { return rules.Cmp{Sreg: reg, Op: unix.NFT_CMP_EQ, Data: data} }
func isNot(data ...byte) rules.Expr {
	return rules.Cmp{Sreg: reg, Op: unix.NFT_CMP_NEQ, Data: data}
}

func compare(op uint32, data []byte) rules.Expr { return rules.Cmp{Sreg: reg, Op: op, Data: data} }

func l4(proto byte) []rules.Expr {
	return []rules.Expr{rules.Meta{Key: unix.NFT_META_L4PROTO, Dreg: reg}, is(proto)}
}

func dport(port uint16) []rules.Expr {
	return rule(l4(unix.IPPROTO_TCP), []rules.Expr{load(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2), is(be16(port)...)})
}

func saddr(a string) []rules.Expr {
	return []rules.Expr{load(unix.NFT_PAYLOAD_NETWORK_HEADER, 12, 4), is(netip.MustParseAddr(a).AsSlice()...)}
}

func ctState(bits uint32) []rules.Expr {
	return []rules.Expr{
		rules.CT{Key: unix.NFT_CT_STATE, Dreg: reg, Direction: -1},
		rules.Bitwise{Sreg: reg, Dreg: reg, Len: 4, Mask: he32(bits), Xor: he32(0)},
		isNot(he32(0)...),
	}
}

func iifname(name string) []rules.Expr {
	var b [16]byte
	copy(b[:], name)
	return []rules.Expr{rules.Meta{Key: unix.NFT_META_IIFNAME, Dreg: reg}, is(b[:len(name)+1]...)}
}

func setMark(v uint32) []rules.Expr {
	return []rules.Expr{rules.Immediate{Dreg: reg, Data: he32(v)}, rules.Meta{Key: unix.NFT_META_MARK, Set: true, Sreg: reg}}
}

func dnat(addr string, port uint16) []rules.Expr {
	return []rules.Expr{
		rules.Immediate{Dreg: reg, Data: netip.MustParseAddr(addr).AsSlice()},
		rules.Immediate{Dreg: reg + 1, Data: be16(port)},
		rules.Nat{Type: unix.NFT_NAT_DNAT, Family: unix.NFPROTO_IPV4, AddrMin: reg, PortMin: reg + 1},
	}
}

var (
	limit   = []rules.Expr{rules.Limit{Rate: 10, Unit: 1}}
	counter = []rules.Expr{rules.Counter{}}
)

// syn is the packet of the tests: a client's to a published port.
func syn() Packet {
	return Packet{
		EtherType: unix.ETH_P_IP, Proto: unix.IPPROTO_TCP,
		Src: netip.MustParseAddr("192.0.2.2"), Dst: netip.MustParseAddr("192.0.2.1"), DstPort: 8080, TCPFlags: tcpSYN,
		In: Interface{Index: 2, Name: "eth0", Type: unix.ARPHRD_ETHER},
	}
}

func runs1(t *testing.T, rs *ruleset, h Hook, p Packet) []Outcome {
	t.Helper()
	out, err := runAt(&rs.Ruleset, h, p, &rs.facts, time.Unix(1764470000, 0))
	require.NoError(t, err)
	require.NotEmpty(t, out)
	for _, o := range out {
		require.Equal(t, len(out) == 1 && o.End != Unclear, len(o.If) == 0, "one outcome is certain, and several are not: %+v", out)
	}
	return out
}

// one expects a certain outcome.
func one(t *testing.T, rs *ruleset, h Hook, p Packet) Outcome {
	t.Helper()
	out := runs1(t, rs, h, p)
	require.Len(t, out, 1)
	return out[0]
}

func ends(list []Outcome) (all []End) {
	for _, o := range list {
		all = append(all, o.End)
	}
	return all
}

func seen(p Packet) Packet {
	p.CT = Conn{
		Seen: true, State: New, Original: Tuple{p.Src, p.Dst, p.SrcPort, p.DstPort}, Answer: Tuple{p.Dst, p.Src, p.DstPort, p.SrcPort},
	}
	return p
}

func TestVerdicts(t *testing.T) {
	filter := func(policy int32, list ...[]rules.Expr) *ruleset {
		rs := &ruleset{}
		tb := rs.table(unix.NFPROTO_INET, "t")
		base(tb, "c", "filter", unix.NF_INET_FORWARD, 0, policy, list...)
		chain(tb, "falls", counter)
		chain(tb, "drops", counter, drop)
		chain(tb, "returns", verdict(codeReturn), drop)
		chain(tb, "twice", jump("returns"), jump("falls"))
		return rs
	}
	for _, tt := range []struct {
		name string
		rs   *ruleset
		want []End
	}{
		{"empty, accept", filter(codeAccept), []End{Accepted}},
		{"empty, drop", filter(codeDrop), []End{Dropped}},
		{"accept", filter(codeDrop, accept), []End{Accepted}},
		{"another port", filter(codeAccept, rule(dport(80), drop)), []End{Accepted}},
		{"this port", filter(codeAccept, rule(dport(8080), drop)), []End{Dropped}},
		{"a jump returns", filter(codeAccept, jump("falls"), drop), []End{Dropped}},
		{"a goto does not", filter(codeAccept, verdict(codeGoto, "falls"), drop), []End{Accepted}},
		{"a return does", filter(codeAccept, jump("returns"), drop), []End{Dropped}},
		{"of the base chain", filter(codeAccept, verdict(codeReturn), drop), []End{Accepted}},
		{"nested", filter(codeAccept, jump("twice"), drop), []End{Dropped}},
		{"a limit that decides", filter(codeDrop, rule(limit, accept)), []End{Accepted, Dropped}},
		{"a limit that does not", filter(codeAccept, rule(limit, accept)), []End{Accepted}},
		{"a limit before a counter", filter(codeAccept, rule(limit, counter)), []End{Accepted}},
		{"a limit before a jump that returns", filter(codeAccept, rule(limit, jump("twice"))), []End{Accepted}},
		{"a limit before a drop before a drop", filter(codeAccept, rule(limit, drop), drop), []End{Dropped}},
		{"a limit for others", filter(codeAccept, rule(dport(80), limit, drop)), []End{Accepted}},
		{"a limit in a chain", filter(codeAccept, rule(limit, jump("drops"))), []End{Dropped, Accepted}},
		{"reject", filter(codeAccept, []rules.Expr{rules.Reject{}}), []End{Rejected}},
		{"unknown", filter(codeAccept, []rules.Expr{rules.Unknown{Name: "odd"}}), []End{Accepted, Unclear}},
		{"unknown of others", filter(codeAccept, rule(dport(80), []rules.Expr{rules.Unknown{Name: "odd"}})), []End{Accepted}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.ElementsMatch(t, tt.want, ends(runs1(t, tt.rs, Forward, seen(syn()))))
		})
	}
}

func TestSeveralTables(t *testing.T) {
	rs := &ruleset{}
	a := rs.table(unix.NFPROTO_INET, "a")
	base(a, "c", "filter", unix.NF_INET_FORWARD, 0, codeAccept, accept)
	b := rs.table(unix.NFPROTO_IPV4, "b")
	c := base(b, "c", "filter", unix.NF_INET_FORWARD, 10, codeDrop, rule(iifname("br0"), accept))
	p := seen(syn())
	o := one(t, rs, Forward, p)
	require.Equal(t, Dropped, o.End, "an accept ends its own base chain only")
	require.Nil(t, o.By)
	require.Equal(t, c, o.Chain)
	p.In.Name = "br0"
	require.Equal(t, Accepted, one(t, rs, Forward, p).End)
	b.Flags = unix.NFT_TABLE_F_DORMANT
	p.In.Name = "eth0"
	require.Equal(t, Accepted, one(t, rs, Forward, p).End)
	b.Flags, b.Family = 0, unix.NFPROTO_IPV6
	require.Equal(t, Accepted, one(t, rs, Forward, p).End, "of the other family")
}

func TestNatOrder(t *testing.T) {
	rs := &ruleset{}
	old := rs.table(unix.NFPROTO_INET, "old")
	base(old, "c", "nat", unix.NF_INET_PRE_ROUTING, -100, codeAccept, rule(dport(8080), dnat("172.30.0.2", 80)))
	newer := rs.table(unix.NFPROTO_IPV4, "newer")
	base(newer, "c", "nat", unix.NF_INET_PRE_ROUTING, -100, codeAccept, rule(dport(8080), dnat("172.30.0.3", 81)))
	o := one(t, rs, Prerouting, syn())
	require.Equal(t, "172.30.0.3", o.Packet.Dst.String(), "the newest is first, and ends the others")
	require.EqualValues(t, 81, o.Packet.DstPort)
	require.Equal(t, newer.Chains[0].Rules[0], o.Translated)
	require.Equal(t, Tuple{o.Packet.Dst, o.Packet.Src, 81, 0}, o.Packet.CT.Answer)
	require.EqualValues(t, 8080, o.Packet.CT.Original.DstPort)
	require.EqualValues(t, DstNAT|DstNATDone, o.Packet.CT.Status)

	old.Chains[0].Base.Priority = -110
	o = one(t, rs, Prerouting, syn())
	require.Equal(t, "172.30.0.2", o.Packet.Dst.String(), "the priority is first")

	speedup := rs.table(unix.NFPROTO_INET, "speedup")
	base(speedup, "c", "filter", unix.NF_INET_PRE_ROUTING, -300, codeAccept, rule(dport(8080), []rules.Expr{rules.Notrack{}}))
	o = one(t, rs, Prerouting, syn())
	require.True(t, o.Packet.CT.Untracked)
	require.Equal(t, "192.0.2.1", o.Packet.Dst.String(), "what is not tracked is not translated")
}

func TestAnswer(t *testing.T) {
	rs := &ruleset{}
	tb := rs.table(unix.NFPROTO_INET, "t")
	base(tb, "nat", "nat", unix.NF_INET_PRE_ROUTING, -100, codeAccept, dnat("172.30.0.9", 1))
	base(tb, "post", "nat", unix.NF_INET_POST_ROUTING, 100, codeAccept, dnat("172.30.0.9", 1))
	base(tb, "c", "filter", unix.NF_INET_FORWARD, 0, codeDrop, rule(ctState(Established|Related), accept))
	p := Packet{
		EtherType: unix.ETH_P_IP, Proto: unix.IPPROTO_TCP, TCPFlags: tcpSYN | tcpACK,
		Src: netip.MustParseAddr("172.30.0.2"), Dst: netip.MustParseAddr("192.0.2.2"), SrcPort: 80,
		In: Interface{Index: 3, Name: "br0"},
		CT: Conn{
			State: Established, Status: SeenReply | Confirmed | DstNAT | DstNATDone | SrcNATDone, Reply: true,
			Original: Tuple{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.1"), 0, 8080},
			Answer:   Tuple{netip.MustParseAddr("172.30.0.2"), netip.MustParseAddr("192.0.2.2"), 80, 0},
		},
	}
	o := one(t, rs, Prerouting, p)
	require.Equal(t, p.Src, o.Packet.Src)
	require.Equal(t, p.Dst, o.Packet.Dst)
	o = one(t, rs, Forward, o.Packet)
	require.Equal(t, Accepted, o.End)
	o = one(t, rs, Postrouting, o.Packet)
	require.Equal(t, "192.0.2.1", o.Packet.Src.String())
	require.EqualValues(t, 8080, o.Packet.SrcPort)
	require.Zero(t, o.Packet.DstPort)
}

func TestClientPort(t *testing.T) {
	sport := func(x rules.Expr) []rules.Expr {
		return rule(l4(unix.IPPROTO_TCP), []rules.Expr{load(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2), x})
	}
	for _, tt := range []struct {
		name string
		list [][]rules.Expr
		want []End
	}{
		{"all that clients use", [][]rules.Expr{rule(sport(compare(unix.NFT_CMP_GTE, be16(1024))), accept)}, []End{Accepted}},
		{"none of them", [][]rules.Expr{rule(sport(is(be16(53)...)), accept)}, []End{Dropped}},
		{"some", [][]rules.Expr{rule(sport(is(be16(5353)...)), accept)}, []End{Accepted, Dropped}},
		{"both halves", [][]rules.Expr{
			rule(sport(compare(unix.NFT_CMP_LT, be16(32768))), accept), rule(sport(compare(unix.NFT_CMP_GTE, be16(32768))), accept),
		}, []End{Accepted}},
		{"a range of all", [][]rules.Expr{rule(sport(rules.Range{Sreg: reg, From: be16(1024), To: be16(65535)}), accept)}, []End{Accepted}},
		{"not a range of none", [][]rules.Expr{rule(sport(rules.Range{Sreg: reg, From: be16(1), To: be16(1023), Not: true}), accept)}, []End{Accepted}},
		{"a range and its rest", [][]rules.Expr{
			rule(sport(rules.Range{Sreg: reg, From: be16(1024), To: be16(4999)}), accept),
			rule(sport(compare(unix.NFT_CMP_GT, be16(4999))), accept),
		}, []End{Accepted}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rs := &ruleset{}
			base(rs.table(unix.NFPROTO_INET, "t"), "c", "filter", unix.NF_INET_FORWARD, 0, codeDrop, tt.list...)
			var ways []End
			for _, e := range ends(runs1(t, rs, Forward, seen(syn()))) {
				if len(ways) == 0 || ways[len(ways)-1] != e {
					ways = append(ways, e)
				}
			}
			require.ElementsMatch(t, tt.want, ways)
		})
	}
}
