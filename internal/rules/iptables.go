// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// XT prints what package xt reads.
type XT interface {
	// Match and Target print options of iptables, as "-m comment --comment x" and "-j LOG".
	Match(family Family, m Match) string
	Target(family Family, t Target) string
	// Rule prints a rule of a legacy table.
	Rule(r *Rule) string
}

// IPTables reports whether iptables-nft made the table: it has chains with its names, at its
// hooks, and no other base chains.
func (t *Table) IPTables() bool {
	if t.Family != unix.NFPROTO_IPV4 && t.Family != unix.NFPROTO_IPV6 {
		return false
	}
	switch t.Name {
	case "filter", "nat", "mangle", "raw", "security":
	default:
		return false
	}
	hooks := map[string]uint32{
		"PREROUTING": unix.NF_INET_PRE_ROUTING, "INPUT": unix.NF_INET_LOCAL_IN, "FORWARD": unix.NF_INET_FORWARD,
		"OUTPUT": unix.NF_INET_LOCAL_OUT, "POSTROUTING": unix.NF_INET_POST_ROUTING,
	}
	bases := 0
	for _, c := range t.Chains {
		if c.Base == nil {
			continue
		}
		if hook, ok := hooks[c.Name]; !ok || hook != c.Base.Hook {
			return false
		}
		bases++
	}
	return bases != 0
}

// iptables is a rule in the syntax of iptables.
type iptables struct {
	family                             Family
	src, dst, in, out, proto, fragment string
	matches                            []string
	target                             string
	// ports is where in matches the options of tcp or udp go; negative: there are none.
	ports               int
	number              uint8 // of the protocol
	sport, dport, flags string
	loaded              map[Register]Expr
	masks               map[Register][]byte
}

// iptables prints a rule that iptables-nft made, as `iptables -S` does; false: it did not make it.
func (p *Printer) iptables(r *Rule) (string, bool) {
	t := iptables{family: r.Chain.Table.Family, ports: -1, loaded: map[Register]Expr{}, masks: map[Register][]byte{}}
	for _, e := range r.Exprs {
		ok := t.target == ""
		switch e := e.(type) {
		case Counter:
			ok = true
		case Match:
			text := ""
			if p.XT != nil {
				text = p.XT.Match(t.family, e)
			}
			t.matches = append(t.matches, text)
			ok = ok && text != ""
		case Target:
			if p.XT != nil {
				t.target = p.XT.Target(t.family, e)
			}
			ok = ok && t.target != ""
		default:
			ok = ok && t.expr(e)
		}
		if !ok {
			return "", false
		}
	}
	return t.String(r), true
}

func (t *iptables) String(r *Rule) string {
	if t.ports >= 0 {
		t.matches[t.ports] = join("-m "+map[uint8]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}[t.number], t.sport, t.dport, t.flags)
	}
	if r.Comment != "" {
		t.matches = append(t.matches, "-m comment --comment "+quoted(r.Comment))
	}
	return join("-A "+r.Chain.Name, t.src, t.dst, t.in, t.out, t.proto, t.fragment, join(t.matches...), t.target)
}

// join joins words that are not empty.
func join(words ...string) string {
	var text []string
	for _, w := range words {
		if w != "" {
			text = append(text, w)
		}
	}
	return strings.Join(text, " ")
}

// quoted is a string as iptables-save(8) writes it.
func quoted(s string) string {
	plain := func(r rune) bool {
		return r == '_' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return `"` + strings.NewReplacer(`"`, `\"`, `\`, `\\`, `'`, `\'`).Replace(s) + `"`
}

// not puts an option behind a "!", if op is for all but the value.
func not(op uint32, option string) string {
	if op == unix.NFT_CMP_NEQ {
		return "! " + option
	}
	return option
}

func (t *iptables) expr(e Expr) bool {
	switch e := e.(type) {
	case Meta:
		if e.Set {
			one, ok := t.loaded[e.Sreg].(Immediate)
			if e.Key != unix.NFT_META_NFTRACE || !ok || len(one.Data) == 0 || one.Data[0] != 1 {
				return false
			}
			t.target = "-j TRACE"
			return true
		}
		t.load(e.Dreg, e)
	case Payload:
		t.load(e.Dreg, e)
		return !e.Set
	case Immediate:
		if e.Decision == nil {
			t.load(e.Dreg, e)
			return true
		}
		return t.decision(*e.Decision)
	case Bitwise:
		t.masks[e.Dreg] = e.Mask
		return e.Op == BitwiseMaskXor && e.Sreg == e.Dreg && isZero(e.Xor)
	case Cmp:
		return t.cmp(e)
	case Range:
		return t.inRange(e)
	case Limit:
		units := map[uint64]string{1: "sec", 60: "min", 3600: "hour", 86400: "day"}
		text := fmt.Sprintf("-m limit --limit %d/%s", e.Rate, units[e.Unit])
		const defaultBurst = 5
		if e.Burst != defaultBurst {
			text += fmt.Sprintf(" --limit-burst %d", e.Burst)
		}
		t.matches = append(t.matches, text)
		return units[e.Unit] != "" && e.Type == unix.NFT_LIMIT_PKTS && !e.Over
	case Log:
		t.target = "-j NFLOG"
		if e.Prefix != "" {
			t.target += " --nflog-prefix " + quoted(e.Prefix)
		}
		if e.Group > 0 {
			t.target += fmt.Sprintf(" --nflog-group %d", e.Group)
		}
		if e.Snaplen != 0 {
			t.target += fmt.Sprintf(" --nflog-size %d", e.Snaplen)
		}
		if e.QThreshold > 1 {
			t.target += fmt.Sprintf(" --nflog-threshold %d", e.QThreshold)
		}
		return e.Group >= 0
	default:
		return false
	}
	return true
}

func (t *iptables) load(r Register, e Expr) {
	t.loaded[r] = e
	delete(t.masks, r)
}

func (t *iptables) decision(d Decision) bool {
	names := map[int32]string{0: "-j DROP", 1: "-j ACCEPT", 3: "-j QUEUE", unix.NFT_RETURN: "-j RETURN", unix.NFT_JUMP: "-j " + d.Chain, unix.NFT_GOTO: "-g " + d.Chain}
	t.target = names[d.Code]
	return t.target != ""
}

// cmp prints a comparison of what has been loaded.
func (t *iptables) cmp(e Cmp) bool {
	equality := e.Op == unix.NFT_CMP_EQ || e.Op == unix.NFT_CMP_NEQ
	mask := t.masks[e.Sreg]
	if mask != nil && len(mask) != len(e.Data) {
		return false
	}
	switch l := t.loaded[e.Sreg].(type) {
	case Meta:
		return equality && t.cmpMeta(l.Key, e, mask)
	case Payload:
		if l.Base == unix.NFT_PAYLOAD_NETWORK_HEADER {
			return equality && t.cmpNetwork(l, e, mask)
		}
		return l.Base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && t.cmpTransport(l, e, mask)
	}
	return false
}

func (t *iptables) cmpMeta(key uint32, e Cmp, mask []byte) bool {
	switch key {
	case unix.NFT_META_IIFNAME, unix.NFT_META_OIFNAME:
		name, _, whole := strings.Cut(string(e.Data), "\x00")
		if !whole {
			name += "+"
		}
		if key == unix.NFT_META_IIFNAME {
			t.in = not(e.Op, "-i "+name)
		} else {
			t.out = not(e.Op, "-o "+name)
		}
		return mask == nil
	case unix.NFT_META_L4PROTO:
		if len(e.Data) != 1 {
			return false
		}
		t.proto = not(e.Op, "-p "+iptablesProto(e.Data[0]))
		if e.Op == unix.NFT_CMP_EQ {
			t.number = e.Data[0]
		}
		return mask == nil
	case unix.NFT_META_MARK:
		if len(e.Data) != 4 {
			return false
		}
		text := fmt.Sprintf("--mark 0x%x", binary.NativeEndian.Uint32(e.Data))
		if mask != nil {
			text += fmt.Sprintf("/0x%x", binary.NativeEndian.Uint32(mask))
		}
		t.matches = append(t.matches, "-m mark "+not(e.Op, text))
		return true
	}
	return false
}

// iptablesProto is the name that iptables has for a protocol.
func iptablesProto(n uint8) string {
	switch n {
	case unix.IPPROTO_COMP:
		return "ipcomp"
	case unix.IPPROTO_MH:
		return "mobility-header"
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP,
		unix.IPPROTO_ESP, unix.IPPROTO_AH, unix.IPPROTO_GRE, unix.IPPROTO_IGMP:
		return kindProto.format(nil, []byte{n}, false)
	}
	return fmt.Sprint(n)
}

func (t *iptables) cmpNetwork(l Payload, e Cmp, mask []byte) bool {
	src, dst, width := 12, 16, 4
	if t.family == unix.NFPROTO_IPV6 {
		src, dst, width = 8, 24, 16
	}
	switch {
	case (l.Offset == src || l.Offset == dst) && len(e.Data) <= width && l.Len == len(e.Data):
		text, ok := iptablesAddr(e.Data, mask, width)
		if l.Offset == src {
			t.src = not(e.Op, "-s "+text)
		} else {
			t.dst = not(e.Op, "-d "+text)
		}
		return ok
	case t.family == unix.NFPROTO_IPV4 && l.Offset == 6 && string(mask) == "\x1f\xff" && isZero(e.Data):
		t.fragment = choose(e.Op == unix.NFT_CMP_EQ, "! -f", "-f")
		return true
	}
	return false
}

// iptablesAddr prints an address of which the first bytes are compared, or some of all.
func iptablesAddr(data, mask []byte, width int) (string, bool) {
	bits := 8 * len(data)
	whole := make([]byte, width)
	copy(whole, data)
	a, ok := netip.AddrFromSlice(whole)
	if mask == nil {
		return fmt.Sprintf("%v/%d", a, bits), ok
	}
	if n, prefix := maskLen(mask); prefix {
		return fmt.Sprintf("%v/%d", a, n), ok
	}
	m, okMask := netip.AddrFromSlice(append(append([]byte{}, mask...), make([]byte, width-len(mask))...))
	return fmt.Sprintf("%v/%v", a, m), ok && okMask
}

// open puts a place for the options of tcp and udp among the matches.
func (t *iptables) open() bool {
	if t.ports < 0 {
		t.ports = len(t.matches)
		t.matches = append(t.matches, "")
	}
	return t.number == unix.IPPROTO_TCP || t.number == unix.IPPROTO_UDP
}

func (t *iptables) cmpTransport(l Payload, e Cmp, mask []byte) bool {
	if !t.open() {
		return false
	}
	if l.Offset == 13 && l.Len == 1 && len(mask) == 1 && len(e.Data) == 1 && t.number == unix.IPPROTO_TCP {
		t.flags = not(e.Op, "--tcp-flags "+tcpFlags(mask[0])+" "+tcpFlags(e.Data[0]))
		return e.Op == unix.NFT_CMP_EQ || e.Op == unix.NFT_CMP_NEQ
	}
	if l.Offset == 0 && l.Len == 4 && len(e.Data) == 4 && mask == nil { // both ports at once; unequal is what iptables means to be both, and the kernel reads as one of them
		t.sport = not(e.Op, fmt.Sprintf("--sport %d", binary.BigEndian.Uint16(e.Data)))
		t.dport = not(e.Op, fmt.Sprintf("--dport %d", binary.BigEndian.Uint16(e.Data[2:])))
		return e.Op == unix.NFT_CMP_EQ || e.Op == unix.NFT_CMP_NEQ
	}
	if len(e.Data) != 2 || mask != nil {
		return false
	}
	n := binary.BigEndian.Uint16(e.Data)
	switch e.Op {
	case unix.NFT_CMP_EQ, unix.NFT_CMP_NEQ:
		return t.port(l, e.Op, fmt.Sprint(n))
	case unix.NFT_CMP_LTE:
		return t.port(l, unix.NFT_CMP_EQ, fmt.Sprintf("0:%d", n))
	case unix.NFT_CMP_GTE:
		return t.port(l, unix.NFT_CMP_EQ, fmt.Sprintf("%d:65535", n))
	case unix.NFT_CMP_GT:
		return t.port(l, unix.NFT_CMP_NEQ, fmt.Sprintf("0:%d", n))
	case unix.NFT_CMP_LT:
		return t.port(l, unix.NFT_CMP_NEQ, fmt.Sprintf("%d:65535", n))
	}
	return false
}

func (t *iptables) port(l Payload, op uint32, text string) bool {
	switch {
	case l.Len != 2:
		return false
	case l.Offset == 0:
		t.sport = not(op, "--sport "+text)
	case l.Offset == 2:
		t.dport = not(op, "--dport "+text)
	default:
		return false
	}
	return true
}

func (t *iptables) inRange(e Range) bool {
	l, ok := t.loaded[e.Sreg].(Payload)
	if !ok || l.Base != unix.NFT_PAYLOAD_TRANSPORT_HEADER || len(e.From) != 2 || len(e.To) != 2 || t.masks[e.Sreg] != nil || !t.open() {
		return false
	}
	op := uint32(unix.NFT_CMP_EQ)
	if e.Not {
		op = unix.NFT_CMP_NEQ
	}
	return t.port(l, op, fmt.Sprintf("%d:%d", binary.BigEndian.Uint16(e.From), binary.BigEndian.Uint16(e.To)))
}

func tcpFlags(b byte) string {
	var names []string
	for i, name := range [...]string{"FIN", "SYN", "RST", "PSH", "ACK", "URG"} {
		if b&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "NONE"
	}
	return strings.Join(names, ",")
}
