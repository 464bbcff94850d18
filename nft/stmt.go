// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Stmt is one statement of a rule. It prints itself as nft(8) lists it and lowers
// itself to the kernel's bytecode; the set of statements is closed.
type Stmt interface {
	fmt.Stringer
	lower(*assembler)
}

// fixed is a statement that always has the same text and bytecode.
type fixed struct {
	text  string
	exprs []expr.Any
}

func (f fixed) String() string { return f.text }

// DaddrLocal matches packets to an address of this host: "fib daddr type local". It keeps a
// published port from matching transit traffic to the same port.
func DaddrLocal() Stmt {
	return fixed{"fib daddr type local", []expr.Any{
		&expr.Fib{Register: register(0), FlagDADDR: true, ResultADDRTYPE: true},
		equal(host32(unix.RTN_LOCAL)),
	}}
}

// DaddrBroadcast matches packets to a broadcast address of this host:
// "fib daddr type broadcast".
func DaddrBroadcast() Stmt {
	return fixed{"fib daddr type broadcast", []expr.Any{
		&expr.Fib{Register: register(0), FlagDADDR: true, ResultADDRTYPE: true},
		equal(host32(unix.RTN_BROADCAST)),
	}}
}

// SaddrElsewhere matches packets whose source is not reached by the interface they came
// in by: "fib saddr . iif oif missing". On a bridge with netfilter calls that interface
// is the bridge (net/bridge/br_netfilter_hooks.c, setup_pre_routing).
func SaddrElsewhere() Stmt {
	return fixed{"fib saddr . iif oif missing", []expr.Any{
		&expr.Fib{Register: register(0), FlagSADDR: true, FlagIIF: true, ResultOIF: true, FlagPRESENT: true},
		// The whole register, as nft(8) 1.0.6 and 1.1.3 do; see asksPresence for others.
		equal(host32(0)),
	}}
}

// SaddrNotLocal matches packets that no address of this host has sent:
// "fib saddr type != local".
func SaddrNotLocal() Stmt {
	return fixed{"fib saddr type != local", []expr.Any{
		&expr.Fib{Register: register(0), FlagSADDR: true, ResultADDRTYPE: true},
		notEqual(host32(unix.RTN_LOCAL)),
	}}
}

// FromNoInterface matches packets of which the hook does not know the interface that they
// came in by: "iif 0". At postrouting those are what this host sends, and frames that a
// bridge has netfilter look at (br_nf_post_routing in net/bridge/br_netfilter_hooks.c).
func FromNoInterface() Stmt {
	return fixed{"iif 0", []expr.Any{&expr.Meta{Key: expr.MetaKeyIIF, Register: register(0)}, equal(host32(0))}}
}

// CTStatusDNAT matches packets of a flow whose destination was translated, in
// either direction: "ct status dnat".
func CTStatusDNAT() Stmt {
	return fixed{"ct status dnat", append([]expr.Any{&expr.Ct{Key: expr.CtKeySTATUS, Register: register(0)}}, anyBit(ipsDstNAT)...)}
}

// CTStateEstablished matches packets of a flow that was answered, and ICMP errors
// and the like that belong to one: "ct state established,related".
func CTStateEstablished() Stmt {
	return fixed{"ct state established,related", append([]expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: register(0)}},
		anyBit(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)...)}
}

// CTDirectionReply matches packets of a flow that go the way of its answers:
// "ct direction reply". A packet that is not tracked, or INVALID, does not match.
func CTDirectionReply() Stmt {
	return fixed{"ct direction reply", []expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: register(0)}, equal([]byte{ipCTDirReply})}}
}

// MarkIs matches packets with the mark: "meta mark 0x00000000".
func MarkIs(mark uint32) Stmt {
	return fixed{"meta mark " + markText(mark), []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: register(0)}, equal(host32(mark))}}
}

// MarkIsNot matches packets with another mark: "meta mark != 0x00000000".
func MarkIsNot(mark uint32) Stmt {
	return fixed{"meta mark != " + markText(mark), []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: register(0)}, notEqual(host32(mark))}}
}

// SetMark gives packets the mark: "meta mark set 0x00000000".
func SetMark(mark uint32) Stmt {
	return fixed{"meta mark set " + markText(mark), []expr.Any{
		&expr.Immediate{Register: register(0), Data: host32(mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register(0), SourceRegister: true},
	}}
}

// SetMarkFrom gives packets the mark that the map holds for their fields; those for which
// it holds none do not match: "meta mark set ct original ip daddr map @answers4".
func SetMarkFrom(m string, fields ...Selector) Stmt { return markFrom{m, fields} }

type markFrom struct {
	m      string
	fields concatenation
}

func (s markFrom) String() string { return fmt.Sprintf("meta mark set %s map @%s", s.fields, s.m) }

// Within matches packets whose address lies in the prefix: "ip daddr 127.0.0.0/8".
// A prefix of one address prints without its length, as nft(8) does.
func Within(s Selector, p netip.Prefix) Stmt { return within{s, p.Masked()} }

type within struct {
	selector Selector
	prefix   netip.Prefix
}

func (w within) String() string {
	if w.prefix.IsSingleIP() {
		return fmt.Sprintf("%s %s", w.selector, w.prefix.Addr())
	}
	return fmt.Sprintf("%s %s", w.selector, w.prefix)
}

// In matches packets whose fields are an element of the set: "ip saddr @networks4".
func In(set string, fields ...Selector) Stmt { return in{set: set, fields: fields} }

// NotIn matches packets whose fields are no element of the set: "ip daddr != @networks4".
func NotIn(set string, fields ...Selector) Stmt { return in{set: set, fields: fields, not: true} }

type in struct {
	set    string
	fields concatenation
	not    bool
}

func (i in) String() string {
	if i.not {
		return fmt.Sprintf("%s != @%s", i.fields, i.set)
	}
	return fmt.Sprintf("%s @%s", i.fields, i.set)
}

// NotFromInterface matches packets that did not arrive on the named interface:
// `iifname != "lo"`. It compares the name with its padding, since the kernel compares only
// the given length (nft_cmp_eval).
func NotFromInterface(name string) Stmt { return notFromInterface{name} }

type notFromInterface struct{ name string }

func (n notFromInterface) String() string { return `iifname != "` + n.name + `"` }

// OverTCP matches packets of TCP: "meta l4proto tcp".
func OverTCP() Stmt { return over{unix.IPPROTO_TCP} }

// OverUDP matches packets of UDP: "meta l4proto udp".
func OverUDP() Stmt { return over{unix.IPPROTO_UDP} }

type over struct{ l4proto byte }

// OverIPv4 matches packets of IPv4: "meta nfproto ipv4".
func OverIPv4() Stmt { return overFamily{unix.NFPROTO_IPV4} }

// OverIPv6 matches packets of IPv6: "meta nfproto ipv6".
func OverIPv6() Stmt { return overFamily{unix.NFPROTO_IPV6} }

type overFamily struct{ nfproto byte }

func (o overFamily) String() string {
	if o.nfproto == unix.NFPROTO_IPV6 {
		return "meta nfproto ipv6"
	}
	return "meta nfproto ipv4"
}

func (o over) String() string {
	if o.l4proto == unix.IPPROTO_UDP {
		return "meta l4proto udp"
	}
	return "meta l4proto tcp"
}

// DNATv4 gives IPv4 packets the destination that the map holds for their fields, if any:
// "dnat ip to tcp dport map @tcp4".
func DNATv4(m string, fields ...Selector) Stmt {
	return translation{m: m, fields: fields, addr: IPv4Addr}
}

// DNATv6 is DNATv4 for IPv6 packets.
func DNATv6(m string, fields ...Selector) Stmt {
	return translation{m: m, fields: fields, addr: IPv6Addr}
}

// SNATv4 gives IPv4 packets the source that the map holds for their fields, if any:
// "snat ip to ip saddr . udp sport map @udp4_host_out". If another flow has the reply tuple
// already, the kernel drops the packet.
func SNATv4(m string, fields ...Selector) Stmt {
	return translation{m: m, fields: fields, addr: IPv4Addr, source: true}
}

// SNATv6 is SNATv4 for IPv6 packets.
func SNATv6(m string, fields ...Selector) Stmt {
	return translation{m: m, fields: fields, addr: IPv6Addr, source: true}
}

// DNATv4SamePort gives IPv4 packets the destination address that the map holds for their
// fields, if any, and leaves the port as it is: "dnat ip to tcp dport map @tcp4_range".
func DNATv4SamePort(m string, fields ...Selector) Stmt {
	return translation{m: m, fields: fields, addr: IPv4Addr, same: true}
}

// DNATv6SamePort is DNATv4SamePort for IPv6 packets.
func DNATv6SamePort(m string, fields ...Selector) Stmt {
	return translation{m: m, fields: fields, addr: IPv6Addr, same: true}
}

// SNATv4SamePort gives IPv4 packets the source address that the map holds for their fields, if
// any, and the source port that they have, which is the selector port, TCPSport or UDPSport:
// "snat ip to udp sport . ip saddr map @udp4_host_out_range:udp sport". Without it the kernel
// would choose another port if a flow has the reply tuple already; so it drops the packet.
func SNATv4SamePort(m string, port Selector, fields ...Selector) Stmt {
	return translation{m: m, fields: fields, addr: IPv4Addr, source: true, same: true, port: port}
}

// SNATv6SamePort is SNATv4SamePort for IPv6 packets.
func SNATv6SamePort(m string, port Selector, fields ...Selector) Stmt {
	return translation{m: m, fields: fields, addr: IPv6Addr, source: true, same: true, port: port}
}

// translation gives packets another destination, or another source.
type translation struct {
	m      string
	fields concatenation
	addr   DataType
	source bool
	// same is whether the map has addresses alone, and port the source port that packets
	// keep; zero: the kernel decides.
	same bool
	port Selector
}

func (d translation) String() string {
	verb, family := "dnat", "ip"
	if d.source {
		verb = "snat"
	}
	if d.addr == IPv6Addr {
		family = "ip6"
	}
	text := fmt.Sprintf("%s %s to %s map @%s", verb, family, d.fields, d.m)
	if d.port != 0 {
		text += ":" + d.port.String()
	}
	return text
}

// family is the protocol family of the packets that are translated.
func (d translation) family() byte {
	if d.addr == IPv6Addr {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// valueType is the type of the value that the map must hold.
func (d translation) valueType() Type {
	if d.same {
		return Type{d.addr}
	}
	return Type{d.addr, InetService}
}

// MasqueradeFullyRandom gives the packet the address of the interface it leaves by as its
// source, and a source port chosen at random, which a backend cannot foresee
// (CVE-2021-3773): "masquerade fully-random".
func MasqueradeFullyRandom() Stmt { return masquerade{} }

// MasqueradeFullyRandomTo is MasqueradeFullyRandom with the source port chosen from
// first to last: "masquerade to :32768-49152 fully-random". Without a range a port below 512
// stays below 512 (nf_nat_l4proto_unique_tuple in net/netfilter/nf_nat_core.c). It needs
// OverTCP or OverUDP before it.
func MasqueradeFullyRandomTo(first, last uint16) Stmt {
	return masquerade{first, last}
}

type masquerade struct {
	first, last uint16 // zero: any
}

func (m masquerade) String() string {
	if m.toPorts() {
		return fmt.Sprintf("masquerade to :%d-%d fully-random", m.first, m.last)
	}
	return "masquerade fully-random"
}

func (m masquerade) toPorts() bool { return m.first != 0 || m.last != 0 }

// validate refuses empty ranges, and those that nft(8) spells otherwise.
func (m masquerade) validate() error {
	if m.toPorts() && (m.first == 0 || m.first >= m.last) {
		return fmt.Errorf("it has no range of ports")
	}
	return nil
}

// MasqueradeTo gives the packet the address of the interface it leaves by, and the source port
// that the map holds for its fields, if any: "masquerade to :ip saddr . udp sport map
// @udp4_out". If another flow has the reply tuple already, the kernel drops the packet. It
// needs the protocols of its fields before it, as OverUDP and OverIPv4 in this order, because
// nft(8) lists both.
func MasqueradeTo(m string, fields ...Selector) Stmt { return masqueradeTo{m, fields} }

type masqueradeTo struct {
	m      string
	fields concatenation
}

func (m masqueradeTo) String() string { return fmt.Sprintf("masquerade to :%s map @%s", m.fields, m.m) }

// RedirectTo sends the packet to this host, to the port that the map holds for its fields, if any:
// "redirect to :tcp dport map @tcp4_shared". At the output hook it goes to 127.0.0.1 or ::1. As
// MasqueradeTo it needs the protocols of its fields before it.
func RedirectTo(m string, fields ...Selector) Stmt { return redirectTo{m, fields} }

type redirectTo struct {
	m      string
	fields concatenation
}

func (r redirectTo) String() string { return fmt.Sprintf("redirect to :%s map @%s", r.fields, r.m) }

// MasqueradeSamePort gives the packet the address of the interface it leaves by, and the source
// port that it has, which is the selector, TCPSport or UDPSport: "masquerade to :udp sport". If
// another flow has the reply tuple already, the kernel drops the packet. It needs a match of the
// protocol before it, as of the port itself.
func MasqueradeSamePort(port Selector) Stmt { return samePort{port} }

type samePort struct{ port Selector }

func (s samePort) String() string { return "masquerade to :" + s.port.String() }

// Accept ends the evaluation of the base chain.
func Accept() Stmt { return verdict{"accept", expr.VerdictAccept, ""} }

// Drop drops the packet.
func Drop() Stmt { return verdict{"drop", expr.VerdictDrop, ""} }

// Return goes back to the calling chain, or to the policy of a base chain.
func Return() Stmt { return verdict{"return", expr.VerdictReturn, ""} }

// Jump runs a regular chain, and goes on behind the jump if that chain returns.
func Jump(chain string) Stmt { return verdict{"jump", expr.VerdictJump, chain} }

type verdict struct {
	word  string
	kind  expr.VerdictKind
	chain string
}

func (v verdict) String() string {
	if v.chain != "" {
		return v.word + " " + v.chain
	}
	return v.word
}
