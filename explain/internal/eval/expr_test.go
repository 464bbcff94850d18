// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

// answer is whether a rule matches.
func answer(t *testing.T, rs *ruleset, tb *rules.Table, hook uint32, h Hook, p Packet, list []rules.Expr) Answer {
	t.Helper()
	tb.Chains = nil
	c := base(tb, "c", "filter", hook, 0, codeAccept, rule(list, drop))
	c.Base.Devices = []string{"eth0", "eth1"}
	a := Answer(-1)
	for _, o := range runs1(t, rs, h, p) {
		switch {
		case o.End == Dropped && a == No, o.End == Accepted && a == Yes:
			a = Maybe
		case o.End == Dropped && a != Maybe:
			a = Yes
		case o.End == Accepted && a != Maybe:
			a = No
		default:
			require.Contains(t, []End{Dropped, Accepted}, o.End)
		}
	}
	return a
}

func meta(key uint32, x ...rules.Expr) []rules.Expr {
	return append([]rules.Expr{rules.Meta{Key: key, Dreg: reg}}, x...)
}

func ctGet(key uint32, dir int, x ...rules.Expr) []rules.Expr {
	return append([]rules.Expr{rules.CT{Key: key, Dreg: reg, Direction: dir}}, x...)
}

func bytesAt(at uint32, offset, n int, x ...rules.Expr) []rules.Expr {
	return append([]rules.Expr{load(at, offset, n)}, x...)
}

func withMask(mask []byte, x ...rules.Expr) []rules.Expr {
	return append([]rules.Expr{rules.Bitwise{Sreg: reg, Dreg: reg, Len: len(mask), Mask: mask, Xor: make([]byte, len(mask))}}, x...)
}

func name(s string) []byte {
	var b [16]byte
	copy(b[:], s)
	return b[:]
}

func udp(p Packet) Packet { p.Proto, p.TCPFlags = unix.IPPROTO_UDP, 0; return p }

func six(p Packet) Packet {
	p.EtherType, p.Src, p.Dst = unix.ETH_P_IPV6, netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8::1")
	return p
}

func with(p Packet, change func(*Packet)) Packet { change(&p); return p }

const (
	ll = unix.NFT_PAYLOAD_LL_HEADER
	nh = unix.NFT_PAYLOAD_NETWORK_HEADER
	th = unix.NFT_PAYLOAD_TRANSPORT_HEADER
)

func TestExpressions(t *testing.T) {
	p := seen(syn())
	p.Out = Interface{Index: 3, Name: "eth1", Type: unix.ARPHRD_ETHER, Group: 7, Kind: "veth"}
	answered := with(p, func(p *Packet) {
		p.CT = Conn{
			Seen: true, State: New, Status: DstNAT | DstNATDone, Mark: 5, Zone: 9,
			Original: Tuple{p.Src, netip.MustParseAddr("192.0.2.9"), 0, 8000},
			Answer:   Tuple{p.Dst, p.Src, 8080, 0},
		}
	})
	local := with(p, func(p *Packet) { p.Local, p.In, p.OwnerKnown, p.UID = true, Interface{}, true, 33 })
	one, zero := []byte{1}, []byte{0}
	for _, tt := range []struct {
		name string
		p    Packet
		list []rules.Expr
		want Answer
	}{
		{"l4proto", p, l4(unix.IPPROTO_TCP), Yes},
		{"l4proto of another", p, l4(unix.IPPROTO_UDP), No},
		{"protocol", p, meta(unix.NFT_META_PROTOCOL, is(8, 0)), Yes},
		{"nfproto", p, meta(unix.NFT_META_NFPROTO, is(unix.NFPROTO_IPV4)), Yes},
		{"nfproto of IPv6", six(p), meta(unix.NFT_META_NFPROTO, is(unix.NFPROTO_IPV6)), Yes},
		{"iifname", p, iifname("eth0"), Yes},
		{"iifname of a prefix", p, meta(unix.NFT_META_IIFNAME, is([]byte("eth")...)), Yes},
		{"iifname of a longer one", p, iifname("eth"), No},
		{"iif", p, meta(unix.NFT_META_IIF, is(he32(2)...)), Yes},
		{"oif", p, meta(unix.NFT_META_OIF, is(he32(3)...)), Yes},
		{"oifname", p, meta(unix.NFT_META_OIFNAME, is(name("eth1")...)), Yes},
		{"oifname not", p, meta(unix.NFT_META_OIFNAME, isNot(name("eth1")...)), No},
		{"iiftype", p, meta(unix.NFT_META_IIFTYPE, is(binary.NativeEndian.AppendUint16(nil, unix.ARPHRD_ETHER)...)), Yes},
		{"oifgroup", p, meta(unix.NFT_META_OIFGROUP, is(he32(7)...)), Yes},
		{"oifkind", p, meta(metaOifkind, is(name("veth")...)), Yes},
		{"iifkind without one", p, meta(metaIifkind, isNot(name("veth")...)), No},
		{"iif without one", local, meta(unix.NFT_META_IIF, is(he32(0)...)), Yes},
		{"iiftype without one", local, meta(unix.NFT_META_IIFTYPE, isNot(1, 0)), No},
		{"skuid", local, meta(unix.NFT_META_SKUID, is(he32(33)...)), Yes},
		{"skuid not known", with(local, func(p *Packet) { p.OwnerKnown = false }), meta(unix.NFT_META_SKUID, is(he32(33)...)), Maybe},
		{"skuid of others", p, meta(unix.NFT_META_SKUID, isNot(he32(33)...)), No},
		{"mark", with(p, func(p *Packet) { p.Mark = 0x10 }), meta(unix.NFT_META_MARK, withMask(he32(0xf0), is(he32(0x10)...))...), Yes},
		{"mark not known", with(p, func(p *Packet) { p.MarkUnknown = true }), meta(unix.NFT_META_MARK, is(he32(1)...)), Maybe},
		{"mark not known, masked away", with(p, func(p *Packet) { p.MarkUnknown = true }), meta(unix.NFT_META_MARK, withMask(he32(0), is(he32(0)...))...), Yes},
		{"mark set", p, rule(setMark(3), meta(unix.NFT_META_MARK, is(he32(3)...))), Yes},
		{"pkttype", p, meta(unix.NFT_META_PKTTYPE, is(0)), Yes},
		{"length not known", p, meta(unix.NFT_META_LEN, compare(unix.NFT_CMP_LTE, he32(60))), Maybe},
		{"length", with(p, func(p *Packet) { p.Len = 60 }), meta(unix.NFT_META_LEN, rules.Byteorder{Sreg: reg, Dreg: reg, Op: unix.NFT_BYTEORDER_HTON, Len: 4, Size: 4}, compare(unix.NFT_CMP_LTE, []byte{0, 0, 0, 60})), Yes},
		{"random", p, meta(unix.NFT_META_PRANDOM, compare(unix.NFT_CMP_LTE, he32(1<<31))), Maybe},
		{"hour", p, meta(metaTimeHour, compare(unix.NFT_CMP_GTE, he32(0))), Yes},
		{"a key that is not read", p, meta(99, is(1)), Maybe},

		{"ct state", p, ctState(New), Yes},
		{"ct state of answers", p, ctState(Established | Related), No},
		{"ct state before conntrack", with(p, func(p *Packet) { p.CT = Conn{} }), ctState(Invalid), Yes},
		{"ct state untracked", with(p, func(p *Packet) { p.CT = Conn{Untracked: true} }), ctState(64), Yes},
		{"ct mark before conntrack", with(p, func(p *Packet) { p.CT = Conn{} }), ctGet(unix.NFT_CT_MARK, -1, isNot(he32(9)...)), No},
		{"ct status dnat", answered, ctGet(unix.NFT_CT_STATUS, -1, withMask(he32(DstNAT), isNot(he32(0)...))...), Yes},
		{"ct status of others", p, ctGet(unix.NFT_CT_STATUS, -1, withMask(he32(DstNAT), isNot(he32(0)...))...), No},
		{"ct direction", p, ctGet(unix.NFT_CT_DIRECTION, -1, is(0)), Yes},
		{"ct mark", answered, ctGet(unix.NFT_CT_MARK, -1, is(he32(5)...)), Yes},
		{"ct mark set", answered, rule([]rules.Expr{rules.Immediate{Dreg: reg, Data: he32(6)}, rules.CT{Key: unix.NFT_CT_MARK, Set: true, Sreg: reg}}, ctGet(unix.NFT_CT_MARK, -1, is(he32(6)...))), Yes},
		{"ct zone", answered, ctGet(unix.NFT_CT_ZONE, -1, is(binary.NativeEndian.AppendUint16(nil, 9)...)), Yes},
		{"ct original daddr", answered, ctGet(unix.NFT_CT_DST_IP, 0, is(192, 0, 2, 9)), Yes},
		{"ct original proto-dst", answered, ctGet(unix.NFT_CT_PROTO_DST, 0, is(be16(8000)...)), Yes},
		{"ct reply saddr", answered, ctGet(unix.NFT_CT_SRC_IP, 1, is(192, 0, 2, 1)), Yes},
		{"ct reply proto-src", answered, ctGet(unix.NFT_CT_PROTO_SRC, 1, is(be16(8080)...)), Yes},
		{"ct original proto-src", answered, ctGet(unix.NFT_CT_PROTO_SRC, 0, compare(unix.NFT_CMP_GTE, be16(1024))), Yes},
		{"ct original IPv6", answered, ctGet(unix.NFT_CT_SRC_IP6, 0, isNot(make([]byte, 16)...)), No},
		{"ct packets", p, ctGet(unix.NFT_CT_PKTS, 0, is(binary.NativeEndian.AppendUint64(nil, 1)...)), Yes},
		{"ct label", p, ctGet(unix.NFT_CT_LABELS, -1, isNot(make([]byte, 16)...)), No},
		{"ct helper", p, ctGet(unix.NFT_CT_HELPER, -1, isNot(name("ftp")...)), No},
		{"ct protocol", p, ctGet(unix.NFT_CT_PROTOCOL, -1, is(unix.IPPROTO_TCP)), Yes},
		{"ct l3proto", six(p), ctGet(unix.NFT_CT_L3PROTOCOL, -1, is(unix.NFPROTO_IPV6)), Yes},

		{"saddr", p, saddr("192.0.2.2"), Yes},
		{"saddr of others", p, saddr("192.0.2.3"), No},
		{"daddr of a prefix", p, bytesAt(nh, 16, 4, withMask([]byte{255, 255, 255, 0}, is(192, 0, 2, 0))...), Yes},
		{"daddr of a prefix of whole bytes", p, bytesAt(nh, 16, 3, is(192, 0, 2)), Yes},
		{"version", p, bytesAt(nh, 0, 1, withMask([]byte{0xf0}, is(0x40))...), Yes},
		{"length of the IP header", p, bytesAt(nh, 0, 1, withMask([]byte{0x0f}, is(5))...), Yes},
		{"id", p, bytesAt(nh, 4, 2, is(0, 0)), Maybe},
		{"fragment", p, bytesAt(nh, 6, 2, withMask([]byte{0x1f, 0xff}, isNot(0, 0))...), No},
		{"more fragments", p, bytesAt(nh, 6, 2, withMask([]byte{0x20, 0}, isNot(0, 0))...), No},
		{"don't fragment", p, bytesAt(nh, 6, 2, withMask([]byte{0x40, 0}, isNot(0, 0))...), Maybe},
		{"ttl not known", p, bytesAt(nh, 8, 1, is(64)), Maybe},
		{"ttl that none has", p, bytesAt(nh, 8, 1, compare(unix.NFT_CMP_LT, []byte{5})), No},
		{"hop limit that all have", six(p), bytesAt(nh, 7, 1, compare(unix.NFT_CMP_GT, []byte{1})), Yes},
		{"ttl and protocol", p, bytesAt(nh, 8, 2, is(64, unix.IPPROTO_TCP)), Maybe},
		{"ttl that none has, and protocol", p, bytesAt(nh, 8, 2, is(1, unix.IPPROTO_TCP)), No},
		{"ttl set", p, rule([]rules.Expr{rules.Immediate{Dreg: reg, Data: []byte{1}}, rules.Payload{Base: nh, Offset: 8, Len: 1, Sreg: reg, Set: true}}, bytesAt(nh, 8, 1, is(1))), Yes},
		{"ttl set to what is not known", p, rule(bytesAt(nh, 4, 1, rules.Payload{Base: nh, Offset: 8, Len: 1, Sreg: reg, Set: true}), bytesAt(nh, 8, 1, is(1))), Maybe},
		{"length of a SYN", p, bytesAt(nh, 2, 2, compare(unix.NFT_CMP_GTE, be16(1500))), No},
		{"length of a datagram", udp(p), bytesAt(nh, 2, 2, compare(unix.NFT_CMP_GTE, be16(1500))), Maybe},
		{"payload of a SYN", six(p), bytesAt(nh, 4, 2, compare(unix.NFT_CMP_LTE, be16(60))), Yes},
		{"length of no datagram", udp(p), bytesAt(th, 4, 2, compare(unix.NFT_CMP_LT, be16(8))), No},
		{"meta length of a SYN", p, meta(unix.NFT_META_LEN, rules.Byteorder{Sreg: reg, Dreg: reg, Op: unix.NFT_BYTEORDER_HTON, Len: 4, Size: 4}, compare(unix.NFT_CMP_GT, []byte{0, 0, 0x05, 0xdc})), No},
		{"meta length that none has", p, meta(unix.NFT_META_LEN, is(he32(1<<20)...)), No},
		{"ttl", with(p, func(p *Packet) { p.TTL = 64 }), bytesAt(nh, 8, 1, compare(unix.NFT_CMP_GT, []byte{1})), Yes},
		{"ip6 saddr", six(p), bytesAt(nh, 8, 16, is(netip.MustParseAddr("2001:db8::2").AsSlice()...)), Yes},
		{"ip6 flow label", six(p), bytesAt(nh, 1, 3, withMask([]byte{0x0f, 0xff, 0xff}, is(0, 0, 0))...), Maybe},
		{"dport", p, dport(8080), Yes},
		{"dport of UDP", udp(p), bytesAt(th, 2, 2, is(be16(8080)...)), Yes},
		{"dports", p, bytesAt(th, 2, 2, rules.Range{Sreg: reg, From: be16(8000), To: be16(9000)}), Yes},
		{"not dports", p, bytesAt(th, 2, 2, rules.Range{Sreg: reg, From: be16(8000), To: be16(9000), Not: true}), No},
		{"both ports", p, bytesAt(th, 0, 4, is(0, 53, 0x1f, 0x90)), No},
		{"both ports, perhaps", p, bytesAt(th, 0, 4, is(8, 53, 0x1f, 0x90)), Maybe},
		{"flags", p, bytesAt(th, 13, 1, withMask([]byte{0x17}, is(2))...), Yes},
		{"not a SYN", p, bytesAt(th, 13, 1, withMask([]byte{0x17}, isNot(2))...), No},
		{"sequence number", p, bytesAt(th, 4, 4, is(0, 0, 0, 0)), Maybe},
		{"length of UDP", with(udp(p), func(p *Packet) { p.Len = 50 }), bytesAt(th, 4, 2, is(0, 30)), Yes},
		{"behind UDP", with(udp(p), func(p *Packet) { p.Len = 28 }), bytesAt(th, 8, 2, isNot(0, 0)), No},
		{"behind UDP, length not known", udp(p), bytesAt(th, 8, 2, isNot(0, 0)), Maybe},
		{"source MAC not known", p, bytesAt(ll, 6, 6, is(1, 2, 3, 4, 5, 6)), Maybe},
		{"source MAC", with(p, func(p *Packet) { p.SrcMAC = []byte{1, 2, 3, 4, 5, 6} }), bytesAt(ll, 6, 6, is(1, 2, 3, 4, 5, 6)), Yes},
		{"link without one", with(p, func(p *Packet) { p.In.Type = unix.ARPHRD_NONE }), bytesAt(ll, 6, 6, isNot(1, 2, 3, 4, 5, 6)), No},
		{"type of the link", p, bytesAt(ll, 12, 2, is(8, 0)), Yes},
		{"vlan", with(p, func(p *Packet) { p.VLAN = 10 }), rule(bytesAt(ll, 12, 2, is(0x81, 0)), bytesAt(ll, 14, 2, withMask([]byte{0x0f, 0xff}, is(0, 10))...)), Yes},
		{"another vlan", with(p, func(p *Packet) { p.VLAN = 11 }), rule(bytesAt(ll, 12, 2, is(0x81, 0)), bytesAt(ll, 14, 2, withMask([]byte{0x0f, 0xff}, is(0, 10))...)), No},
		{"no vlan", p, rule(bytesAt(ll, 12, 2, is(0x81, 0)), bytesAt(ll, 14, 2, withMask([]byte{0x0f, 0xff}, is(0, 10))...)), No},
		{"dport set", p, rule([]rules.Expr{rules.Immediate{Dreg: reg, Data: be16(99)}, rules.Payload{Base: th, Offset: 2, Len: 2, Sreg: reg, Set: true}}, dport(99)), Yes},

		{"ip option", p, []rules.Expr{rules.Exthdr{Op: exthdrIPv4, Type: 131, Len: 1, Dreg: reg, Present: true}, is(one...)}, No},
		{"no ip option", p, []rules.Expr{rules.Exthdr{Op: exthdrIPv4, Type: 131, Len: 1, Dreg: reg, Present: true}, is(zero...)}, Yes},
		{"ip6 fragment", six(p), []rules.Expr{rules.Exthdr{Op: unix.NFT_EXTHDR_OP_IPV6, Type: 44, Offset: 2, Len: 2, Dreg: reg}, is(0, 0)}, No},
		{"maxseg", p, []rules.Expr{rules.Exthdr{Op: unix.NFT_EXTHDR_OP_TCPOPT, Type: 2, Len: 1, Dreg: reg, Present: true}, is(one...)}, Yes},
		{"maxseg that none has", p, []rules.Expr{rules.Exthdr{Op: unix.NFT_EXTHDR_OP_TCPOPT, Type: 2, Offset: 2, Len: 2, Dreg: reg}, compare(unix.NFT_CMP_LT, be16(536))}, No},
		{"maxseg that all have", p, []rules.Expr{rules.Exthdr{Op: unix.NFT_EXTHDR_OP_TCPOPT, Type: 2, Offset: 2, Len: 2, Dreg: reg}, rules.Range{Sreg: reg, From: be16(536), To: be16(65535)}}, Yes},
		{"maxseg of some", p, []rules.Expr{rules.Exthdr{Op: unix.NFT_EXTHDR_OP_TCPOPT, Type: 2, Offset: 2, Len: 2, Dreg: reg}, compare(unix.NFT_CMP_LT, be16(1000))}, Maybe},
		{"removed maxseg", p, []rules.Expr{rules.Exthdr{Op: unix.NFT_EXTHDR_OP_TCPOPT, Type: 2}}, Yes},
		{"removed time stamps", p, []rules.Expr{rules.Exthdr{Op: unix.NFT_EXTHDR_OP_TCPOPT, Type: 8}}, Yes},
		{"removed option of UDP", udp(p), []rules.Expr{rules.Exthdr{Op: unix.NFT_EXTHDR_OP_TCPOPT, Type: 2}}, No},
		{"time stamps", p, []rules.Expr{rules.Exthdr{Op: unix.NFT_EXTHDR_OP_TCPOPT, Type: 8, Len: 1, Dreg: reg, Present: true}, is(one...)}, Maybe},
		{"option of UDP", udp(p), []rules.Expr{rules.Exthdr{Op: unix.NFT_EXTHDR_OP_TCPOPT, Type: 2, Offset: 2, Len: 2, Dreg: reg}, isNot(0, 0)}, No},

		{"limit", p, limit, Maybe},
		{"quota", p, []rules.Expr{rules.Quota{Bytes: 1 << 30, Over: true}}, No},
		{"quota used up", p, []rules.Expr{rules.Quota{Bytes: 100, Used: 100, Over: true}}, Yes},
		{"quota not used up", p, []rules.Expr{rules.Quota{Bytes: 1 << 30}}, Yes},
		{"quota that may be", p, []rules.Expr{rules.Quota{Bytes: 100, Used: 90}}, Maybe},
		{"connlimit", p, []rules.Expr{rules.ConnLimit{Count: 1}}, Maybe},
		{"numgen", p, []rules.Expr{rules.Numgen{Modulus: 2, Dreg: reg}, is(he32(1)...)}, Maybe},
		{"numgen that cannot be", p, []rules.Expr{rules.Numgen{Modulus: 2, Dreg: reg}, is(he32(2)...)}, No},
		{"numgen of many", p, []rules.Expr{rules.Numgen{Modulus: 1000, Dreg: reg}, is(he32(1 << 20)...)}, No},
		{"hash", p, []rules.Expr{rules.Hash{Modulus: 1, Offset: 3, Dreg: reg, Sreg: reg, Len: 4}, is(he32(3)...)}, Yes},
		{"socket", p, []rules.Expr{rules.Socket{Dreg: reg}, is(one...)}, Maybe},
		{"osf", p, []rules.Expr{rules.OSF{Dreg: reg}, is(name("Linux")...)}, Maybe},
		{"route", p, []rules.Expr{rules.Rt{Key: unix.NFT_RT_NEXTHOP4, Dreg: reg}, is(1, 2, 3, 4)}, Maybe},
		{"ipsec", p, []rules.Expr{rules.Rt{Key: rtXfrm, Dreg: reg}, is(one...)}, No},
		{"shift", p, rule(setMark(0), []rules.Expr{rules.Immediate{Dreg: reg, Data: he32(1)}, rules.Bitwise{Sreg: reg, Dreg: reg, Len: 4, Op: rules.BitwiseLshift, Shift: 4}, is(he32(16)...)}), Yes},
		{"shift back", p, []rules.Expr{rules.Immediate{Dreg: reg, Data: he32(16)}, rules.Bitwise{Sreg: reg, Dreg: reg, Len: 4, Op: rules.BitwiseRshift, Shift: 4}, is(he32(1)...)}, Yes},
		{"or of two registers", p, []rules.Expr{rules.Immediate{Dreg: reg, Data: he32(1)}, rules.Immediate{Dreg: reg + 1, Data: he32(4)}, rules.Bitwise{Sreg: reg, Sreg2: reg + 1, Dreg: reg, Len: 4, Op: rules.BitwiseOr}, is(he32(5)...)}, Yes},
		{"and with what is not known", with(p, func(p *Packet) { p.MarkUnknown = true }), meta(unix.NFT_META_MARK, rules.Immediate{Dreg: reg + 1, Data: he32(0)}, rules.Bitwise{Sreg: reg, Sreg2: reg + 1, Dreg: reg, Len: 4, Op: rules.BitwiseAnd}, is(he32(0)...)), Yes},
		{"xor with a constant", p, []rules.Expr{rules.Immediate{Dreg: reg, Data: he32(5)}, rules.Bitwise{Sreg: reg, Dreg: reg, Len: 4, Op: rules.BitwiseXor, Data: he32(4)}, is(he32(1)...)}, Yes},
		{"synproxy of UDP", udp(p), []rules.Expr{rules.Synproxy{}}, No},
		{"tproxy of ICMP", with(p, func(p *Packet) { p.Proto = unix.IPPROTO_ICMP }), []rules.Expr{rules.Tproxy{}}, No},
		{"what does nothing", p, []rules.Expr{rules.Counter{}, rules.Log{}, rules.Last{}, rules.Dup{}}, Yes},
		{"an odd register", p, []rules.Expr{rules.Cmp{Sreg: 99, Data: []byte{1}}}, Maybe},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rs := &ruleset{}
			tb := rs.table(unix.NFPROTO_INET, "t")
			require.Equal(t, tt.want, answer(t, rs, tb, unix.NF_INET_FORWARD, Forward, tt.p, tt.list))
		})
	}
}

// A packet that tproxy gives to a socket is not forwarded, also if the rule accepts it.
func TestTproxy(t *testing.T) {
	rs := &ruleset{}
	tb := rs.table(unix.NFPROTO_INET, "t")
	base(tb, "c", "filter", unix.NF_INET_PRE_ROUTING, -150, codeAccept, rule(dport(8080), []rules.Expr{rules.Tproxy{}}, accept))
	out := runs1(t, rs, Prerouting, syn())
	require.ElementsMatch(t, []End{Accepted, Stolen}, ends(out))
	for _, o := range out {
		require.Contains(t, o.If[0].Reason, "tproxy")
	}
}

func TestSets(t *testing.T) {
	rs := &ruleset{}
	tb := rs.table(unix.NFPROTO_INET, "t")
	rs.set(tb, rules.Set{Name: "addrs", KeyLen: 4}, rules.Element{Key: []byte{192, 0, 2, 2}})
	rs.set(tb, rules.Set{Name: "nets", KeyLen: 4, Flags: unix.NFT_SET_INTERVAL},
		rules.Element{Key: []byte{192, 0, 2, 0}}, rules.Element{Key: []byte{192, 0, 3, 0}, IntervalEnd: true})
	rs.set(tb, rules.Set{Name: "low", KeyLen: 2, Flags: unix.NFT_SET_INTERVAL},
		rules.Element{Key: be16(0)}, rules.Element{Key: be16(1024), IntervalEnd: true})
	rs.set(tb, rules.Set{Name: "high", KeyLen: 2, Flags: unix.NFT_SET_INTERVAL},
		rules.Element{Key: be16(0), IntervalEnd: true}, rules.Element{Key: be16(1024)})
	rs.set(tb, rules.Set{Name: "some", KeyLen: 2}, rules.Element{Key: be16(5000)}, rules.Element{Key: be16(6000)})
	rs.set(tb, rules.Set{Name: "pairs", KeyLen: 8, FieldLens: []int{2, 2}},
		rules.Element{Key: []byte{0x04, 0xd2, 0, 0, 0x1f, 0x90, 0, 0}})
	rs.set(tb, rules.Set{Name: "ranges", KeyLen: 8, FieldLens: []int{2, 2}, Flags: unix.NFT_SET_INTERVAL},
		rules.Element{Key: []byte{0x04, 0, 0, 0, 0x1f, 0x90, 0, 0}, End: []byte{0xff, 0xff, 0, 0, 0x1f, 0x90, 0, 0}})
	rs.set(tb, rules.Set{Name: "limited", KeyLen: 4}, rules.Element{Key: []byte{192, 0, 2, 2}, Conditional: true})
	rs.set(tb, rules.Set{Name: "empty", KeyLen: 4})
	lookup := func(set string, inverted bool) rules.Expr { return rules.Lookup{Set: set, Sreg: reg, Not: inverted} }
	ports := []rules.Expr{rules.Payload{Base: th, Offset: 0, Len: 2, Dreg: reg}, rules.Payload{Base: th, Offset: 2, Len: 2, Dreg: reg + 1}}
	p := seen(syn())
	for _, tt := range []struct {
		name string
		list []rules.Expr
		want Answer
	}{
		{"there", bytesAt(nh, 12, 4, lookup("addrs", false)), Yes},
		{"there, inverted", bytesAt(nh, 12, 4, lookup("addrs", true)), No},
		{"not there", bytesAt(nh, 16, 4, lookup("addrs", false)), No},
		{"not there, inverted", bytesAt(nh, 16, 4, lookup("addrs", true)), Yes},
		{"interval", bytesAt(nh, 16, 4, lookup("nets", false)), Yes},
		{"no client's port", bytesAt(th, 0, 2, lookup("low", false)), No},
		{"any client's port", bytesAt(th, 0, 2, lookup("high", false)), Yes},
		{"some clients' ports", bytesAt(th, 0, 2, lookup("some", false)), Maybe},
		{"some clients' ports, inverted", bytesAt(th, 0, 2, lookup("some", true)), Maybe},
		{"a pair", rule(ports, []rules.Expr{lookup("pairs", false)}), Maybe},
		{"a pair of ranges", rule(ports, []rules.Expr{lookup("ranges", false)}), Yes},
		{"an element with a limit", bytesAt(nh, 12, 4, lookup("limited", false)), Maybe},
		{"a MAC in an empty set", bytesAt(ll, 6, 4, lookup("empty", false)), No},
		{"no set", bytesAt(nh, 12, 4, lookup("none", false)), Maybe},
		{"added", rule(bytesAt(nh, 16, 4, rules.Dynset{Set: "empty", KeyReg: reg}), bytesAt(nh, 16, 4, lookup("empty", false))), Yes},
		{"a meter", bytesAt(nh, 16, 4, rules.Dynset{Set: "empty", KeyReg: reg, Exprs: limit}), Maybe},
		{"added, inverted", bytesAt(nh, 16, 4, rules.Dynset{Set: "empty", KeyReg: reg, Not: true}), No},
		{"deleted", bytesAt(nh, 16, 4, rules.Dynset{Set: "empty", KeyReg: reg, Op: dynsetDelete}), Yes},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, answer(t, rs, tb, unix.NF_INET_FORWARD, Forward, p, tt.list))
		})
	}
}

func TestMaps(t *testing.T) {
	rs := &ruleset{}
	tb := rs.table(unix.NFPROTO_INET, "t")
	to := func(code int32, chain string) *rules.Decision { return &rules.Decision{Code: code, Chain: chain} }
	rs.set(tb, rules.Set{Name: "verdicts", KeyLen: 2, Flags: unix.NFT_SET_MAP, DataType: unix.NFT_DATA_VERDICT},
		rules.Element{Key: be16(80), Decision: to(codeDrop, "")}, rules.Element{Key: be16(8080), Decision: to(codeJump, "drops")})
	rs.set(tb, rules.Set{Name: "halves", KeyLen: 2, Flags: unix.NFT_SET_MAP | unix.NFT_SET_INTERVAL, DataType: unix.NFT_DATA_VERDICT},
		rules.Element{Key: be16(0), Decision: to(codeDrop, "")}, rules.Element{Key: be16(32768), Decision: to(codeGoto, "drops")})
	rs.set(tb, rules.Set{Name: "turns", KeyLen: 4, Flags: unix.NFT_SET_MAP, DataType: unix.NFT_DATA_VERDICT},
		rules.Element{Key: he32(0), Decision: to(codeDrop, "")}, rules.Element{Key: he32(1), Decision: to(codeAccept, "")})
	rs.set(tb, rules.Set{Name: "rest", KeyLen: 2, Flags: unix.NFT_SET_MAP, DataType: unix.NFT_DATA_VERDICT},
		rules.Element{CatchAll: true, Decision: to(codeDrop, "")})
	rs.set(tb, rules.Set{Name: "marks", KeyLen: 2, Flags: unix.NFT_SET_MAP, DataLen: 4},
		rules.Element{Key: be16(8080), Data: he32(7)})
	vmap := func(set string) rules.Expr { return rules.Lookup{Set: set, Sreg: reg, Map: true, Dreg: rules.Verdict} }
	for _, tt := range []struct {
		name string
		list []rules.Expr
		want []End
	}{
		{"a jump", bytesAt(th, 2, 2, vmap("verdicts")), []End{Dropped}},
		{"a client's port", bytesAt(th, 0, 2, vmap("halves")), []End{Dropped}},
		{"a number", []rules.Expr{rules.Numgen{Modulus: 2, Dreg: reg}, vmap("turns")}, []End{Accepted, Dropped}},
		{"the rest", bytesAt(th, 2, 2, vmap("rest")), []End{Dropped}},
		{"the rest of clients", bytesAt(th, 0, 2, vmap("rest")), []End{Dropped}},
		{"a mark", bytesAt(th, 2, 2, rules.Lookup{Set: "marks", Sreg: reg, Map: true, Dreg: reg}, is(he32(7)...), drop[0]), []End{Dropped}},
		{"no map", bytesAt(th, 2, 2, vmap("none")), []End{Accepted, Unclear}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tb.Chains = nil
			chain(tb, "drops", counter, drop)
			base(tb, "c", "filter", unix.NF_INET_FORWARD, 0, codeAccept, tt.list)
			require.ElementsMatch(t, tt.want, ends(runs1(t, rs, Forward, seen(syn()))))
		})
	}
}

// The kernel is not asked for what makes no difference.
func TestAsksLittle(t *testing.T) {
	rs := &ruleset{}
	tb := rs.table(unix.NFPROTO_INET, "t")
	rs.set(tb, rules.Set{Name: "ports", KeyLen: 2}, rules.Element{Key: be16(8080)})
	rs.set(tb, rules.Set{Name: "marks", KeyLen: 2, Flags: unix.NFT_SET_MAP, DataLen: 4}, rules.Element{Key: be16(8080), Data: he32(7)})
	look := bytesAt(th, 2, 2, rules.Lookup{Set: "ports", Sreg: reg})
	mapped := bytesAt(th, 2, 2, rules.Lookup{Set: "marks", Sreg: reg, Map: true, Dreg: reg})
	fib := []rules.Expr{rules.Fib{Result: unix.NFT_FIB_RESULT_ADDRTYPE, Dreg: reg}}
	for _, tt := range []struct {
		name string
		list []rules.Expr
		asks bool
	}{
		{"another source", rule(look, counter, limit, saddr("10.0.0.1"), drop), false},
		{"this source", rule(look, counter, saddr("192.0.2.2"), drop), true},
		{"another source behind a map", rule(mapped, saddr("10.0.0.1"), drop), false},
		{"the result of a map", rule(mapped, []rules.Expr{is(he32(8)...)}, drop), true},
		{"something is changed", rule(look, setMark(1), saddr("10.0.0.1"), drop), true},
		{"the result of fib", rule(fib, []rules.Expr{is(he32(8)...)}, drop), true},
		{"another source behind fib", rule(fib, saddr("10.0.0.1"), drop), false},
		{"a verdict first", rule(look, accept, saddr("10.0.0.1")), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tb.Chains = nil
			base(tb, "c", "filter", unix.NF_INET_FORWARD, 0, codeAccept, tt.list)
			f := &asking{facts: rs.facts}
			f.fib = func(*Packet, uint32, uint32, uint32) ([]byte, error) { f.asked = true; return he32(1), nil }
			_, err := Run(&rs.Ruleset, Forward, seen(syn()), f)
			require.NoError(t, err)
			require.Equal(t, tt.asks, f.asked)
		})
	}
}

// asking notes whether anything is asked.
type asking struct {
	facts
	asked bool
}

func (f *asking) Get(s *rules.Set, key []byte) (rules.Element, bool, error) {
	f.asked = true
	return f.facts.Get(s, key)
}
