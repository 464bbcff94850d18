// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package marking

import (
	"math"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// The hooks of tables of the family inet (enum nf_inet_hooks in include/uapi/linux/netfilter.h).
const (
	hookPrerouting = iota
	hookInput
	hookForward
	hookOutput
	hookPostrouting
	hookIngress
)

// The priorities: first and last of a hook, and just behind connection tracking.
const (
	first         = math.MinInt32
	last          = math.MaxInt32
	behindTracked = -199 // NF_IP_PRI_CONNTRACK is -200
)

// nfAccept is NF_ACCEPT of include/uapi/linux/netfilter.h.
const nfAccept = 1

// MarkChain is the chain with the rule that marks: the first rule event of a packet's trace.
const MarkChain = "mark"

// chainAsked goes to it with what was asked for.
const chainAsked = "asked"

type chain struct {
	name     string
	base     bool
	hook     uint32
	priority int32
	rules    [][]expr
}

// The sets. Keys of several fields have each at the begin of 4 bytes.
const (
	setAny      = "any"      // nfproto . l4proto . dport, at an address in local4 or local6
	setOne4     = "one4"     // l4proto . daddr . dport
	setOne6     = "one6"     //
	setLed4     = "led4"     // the same, from this host
	setLed6     = "led6"     //
	setLocal4   = "local4"   // the host's addresses, as ranges
	setLocal6   = "local6"   //
	setHooked   = "hooked"   // interfaces whose packets were seen at ingress
	setAnswers4 = "answers4" // saddr . daddr . l4proto . sport . dport
	setAnswers6 = "answers6" //
)

// The data types of nft(8), for who lists the table (enum datatypes in nftables' include/datatype.h).
const (
	typeNfproto   = 2
	typeIPv4Addr  = 7
	typeIPv6Addr  = 8
	typeInetProto = 12
	typeService   = 13
	typeIfindex   = 20
)

type set struct {
	name    string
	types   []uint32
	flags   uint32
	size    uint32 // zero: no bound
	timeout uint64 // in milliseconds
}

// answerTimeout is for how long the answers of a connection are marked after its last packet, in milliseconds.
const answerTimeout = 60_000

// mostAnswers is how many connections have their answers marked at a time.
const mostAnswers = 8192

func sets() []set {
	const learned = unix.NFT_SET_EVAL | unix.NFT_SET_TIMEOUT
	return []set{
		{name: setAny, types: []uint32{typeNfproto, typeInetProto, typeService}},
		{name: setOne4, types: []uint32{typeInetProto, typeIPv4Addr, typeService}},
		{name: setOne6, types: []uint32{typeInetProto, typeIPv6Addr, typeService}},
		{name: setLed4, types: []uint32{typeInetProto, typeIPv4Addr, typeService}},
		{name: setLed6, types: []uint32{typeInetProto, typeIPv6Addr, typeService}},
		{name: setLocal4, types: []uint32{typeIPv4Addr}, flags: unix.NFT_SET_INTERVAL},
		{name: setLocal6, types: []uint32{typeIPv6Addr}, flags: unix.NFT_SET_INTERVAL},
		{name: setHooked, types: []uint32{typeIfindex}},
		{
			name: setAnswers4, types: []uint32{typeIPv4Addr, typeIPv4Addr, typeInetProto, typeService, typeService},
			flags: learned, size: mostAnswers, timeout: answerTimeout,
		},
		{
			name: setAnswers6, types: []uint32{typeIPv6Addr, typeIPv6Addr, typeInetProto, typeService, typeService},
			flags: learned, size: mostAnswers, timeout: answerTimeout,
		},
	}
}

// family is where the two versions of IP differ.
type family struct {
	nfproto                       byte
	saddr, daddr, size            uint32 // in the header
	one, fromHost, local, answers string
	ctSaddr, ctDaddr              uint32
}

func families() []family {
	return []family{
		{unix.NFPROTO_IPV4, 12, 16, 4, setOne4, setLed4, setLocal4, setAnswers4, unix.NFT_CT_SRC_IP, unix.NFT_CT_DST_IP},
		{unix.NFPROTO_IPV6, 8, 24, 16, setOne6, setLed6, setLocal6, setAnswers6, unix.NFT_CT_SRC_IP6, unix.NFT_CT_DST_IP6},
	}
}

func (f family) is() []expr { return []expr{meta(unix.NFT_META_NFPROTO, 0), equal(f.nfproto)} }

func (f family) loadSaddr(word int) expr {
	return payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.saddr, f.size, word)
}

func (f family) loadDaddr(word int) expr {
	return payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.daddr, f.size, word)
}

func sport(word int) expr { return payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2, word) }
func dport(word int) expr { return payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, word) }
func l4proto(word int) expr {
	return meta(unix.NFT_META_L4PROTO, word)
}

// chains returns those of the table without the ones at ingress. The client is that whose packets
// are asked for; invalid: any.
func chains(client netip.Addr) []chain {
	const learn, askedInput, askedOutput, tracked, related = "learn", "asked-input", "asked-output", "tracked", "related"
	hook := func(name string, hook uint32, priority int32, rules ...[]expr) chain {
		return chain{name, true, hook, priority, rules}
	}
	return []chain{
		{name: MarkChain, rules: markRules()},
		{name: chainAsked, rules: append(answerRules(), askedRules(client, MarkChain)...)},
		{name: learn, rules: learnRules()},
		{name: askedInput, rules: askedRules(client, learn)},
		{name: askedOutput, rules: slices.Concat(ledRules(client), answerRules(), askedRules(client, MarkChain))},
		{name: tracked, rules: trackedRules(client, learn)},
		{name: related, rules: trackedRules(client, MarkChain)},

		hook("prerouting-first", hookPrerouting, first,
			[]expr{meta(unix.NFT_META_IIF, 0), in(setHooked), verdict(nfAccept, "")}, []expr{jump(chainAsked)}),
		hook("prerouting-related", hookPrerouting, behindTracked, relatedRules(related)...),
		hook("prerouting-last", hookPrerouting, last),
		hook("input-first", hookInput, first),
		hook("input-last", hookInput, last, onlyOriginal(tracked), []expr{jump(askedInput)}),
		hook("forward-first", hookForward, first),
		hook("forward-last", hookForward, last),
		hook("output-first", hookOutput, first, []expr{jump(askedOutput)}),
		hook("output-related", hookOutput, behindTracked, relatedRules(related)...),
		hook("output-last", hookOutput, last),
		hook("postrouting-first", hookPostrouting, first),
		hook("postrouting-last", hookPostrouting, last, onlyOriginal(tracked)),
	}
}

// The limits: of all packets, and of those that neither begin nor end a connection of TCP, so that a
// download leaves room for them.
const (
	MostPackets = 100 // a second
	mostBulk    = 50
)

func markRules() [][]expr {
	const fin, syn, rst = 1, 2, 4
	leftOut := []expr{count(counterLeftOut), returnFromChain()}
	return [][]expr{
		append([]expr{
			l4proto(0), equal(unix.IPPROTO_TCP),
			payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1, 0), and(fin | syn | rst), equal(0),
			above(mostBulk, mostBulk),
		}, leftOut...),
		append([]expr{above(MostPackets, 2*MostPackets)}, leftOut...),
		trace(),
	}
}

// askedRules go to the target with what is asked for.
func askedRules(client netip.Addr, target string) (rules [][]expr) {
	add := func(es ...[]expr) { rules = append(rules, slices.Concat(es...)) }
	fs := families()
	if client.IsValid() {
		f := fs[0]
		if client.Is6() {
			f = fs[1]
		}
		fs = []family{f}
		add([]expr{meta(unix.NFT_META_NFPROTO, 0), notEqual(f.nfproto), returnFromChain()})
		add([]expr{f.loadSaddr(0), notEqual(client.AsSlice()...), returnFromChain()})
		if zone := client.Zone(); zone != "" {
			name := make([]byte, unix.IFNAMSIZ)
			copy(name, zone)
			add([]expr{meta(unix.NFT_META_IIFNAME, 0), notEqual(name...), returnFromChain()})
		}
	}
	for _, f := range fs {
		add(f.is(), []expr{l4proto(0), f.loadDaddr(1), dport(1 + int(f.size)/4), in(f.one), goTo(target)})
		add(f.is(), []expr{meta(unix.NFT_META_NFPROTO, 0), l4proto(1), dport(2), in(setAny), f.loadDaddr(0), in(f.local), goTo(target)})
	}
	return rules
}

// ledRules go to the rule that marks with what this host sends to backends that clients on localhost are led to.
func ledRules(client netip.Addr) (rules [][]expr) {
	if !MayBeLed(client) {
		return nil
	}
	for _, f := range families() {
		rules = append(rules, slices.Concat(f.is(), []expr{l4proto(0), f.loadDaddr(1), dport(1 + int(f.size)/4), in(f.fromHost), goTo(MarkChain)}))
	}
	return rules
}

// MayBeLed reports whether packets of a client may be those of sockets that are led: its address is one of localhost. Invalid: any client.
func MayBeLed(client netip.Addr) bool { return !client.IsValid() || client.IsLoopback() }

// answerRules go to the rule that marks with the answers of connections that were learned.
func answerRules() (rules [][]expr) {
	for _, f := range families() {
		n := int(f.size) / 4
		rules = append(rules, slices.Concat(f.is(), []expr{
			f.loadSaddr(0), f.loadDaddr(n), l4proto(2 * n), sport(2*n + 1), dport(2*n + 2), in(f.answers), goTo(MarkChain),
		}))
	}
	return rules
}

// learnRules note from a packet, as it leaves the host or comes to a socket, how its answers will look.
func learnRules() (rules [][]expr) {
	for _, f := range families() {
		n := int(f.size) / 4
		rules = append(rules, slices.Concat(f.is(), []expr{
			f.loadDaddr(0), f.loadSaddr(n), l4proto(2 * n), dport(2*n + 1), sport(2*n + 2), remember(f.answers),
		}))
	}
	return rules
}

// trackedRules go to the target with packets of connections that began with a packet that is asked for, as
// connection tracking knows it: translated or not.
func trackedRules(client netip.Addr, target string) (rules [][]expr) {
	for _, f := range families() {
		var from []expr
		port := 1 + int(f.size)/4
		if MayBeLed(client) {
			rules = append(rules, []expr{
				ctOriginal(unix.NFT_CT_PROTOCOL, 0), ctOriginal(f.ctDaddr, 1), ctOriginal(unix.NFT_CT_PROTO_DST, port), in(f.fromHost),
				ctOriginal(f.ctSaddr, 0), in(f.local), goTo(target),
			})
		}
		if client.IsValid() {
			if client.Is4() != (f.size == 4) {
				continue
			}
			from = []expr{ctOriginal(f.ctSaddr, 0), equal(client.AsSlice()...)}
		}
		rules = append(rules,
			slices.Concat(from, []expr{
				ctOriginal(unix.NFT_CT_PROTOCOL, 0), ctOriginal(f.ctDaddr, 1), ctOriginal(unix.NFT_CT_PROTO_DST, port), in(f.one), goTo(target),
			}),
			slices.Concat(from, []expr{
				ctOriginal(unix.NFT_CT_L3PROTOCOL, 0), ctOriginal(unix.NFT_CT_PROTOCOL, 1), ctOriginal(unix.NFT_CT_PROTO_DST, 2), in(setAny),
				ctOriginal(f.ctDaddr, 0), in(f.local), goTo(target),
			}))
	}
	return rules
}

// onlyOriginal jumps with packets in the direction of the first one.
func onlyOriginal(target string) []expr {
	return []expr{ct(unix.NFT_CT_DIRECTION, 0), equal(0), jump(target)}
}

// relatedRules jump with ICMP errors about tracked connections.
func relatedRules(target string) (rules [][]expr) {
	const ctStateRelated = 1 << 2 // NF_CT_STATE_BIT(IP_CT_RELATED)
	for _, proto := range []byte{unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6} {
		rules = append(rules, []expr{
			l4proto(0), equal(proto), ct(unix.NFT_CT_STATE, 0), and(hostOrder(ctStateRelated)...), notEqual(hostOrder(0)...), jump(target),
		})
	}
	return rules
}
