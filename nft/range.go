// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unique"

	"golang.org/x/sys/unix"
)

// Range is a range of ports, with what else the key of an interval set or map has whose type
// has an inet_service. The types are, besides inet_service alone:
//
//	inet_service . nf_proto . inet_proto
//	inet_service . ipv4_addr (and behind it another address)
//	inet_service . ipv4_addr . inet_proto (and behind it another address)
//	ifname . inet_service . ipv4_addr
//
// and the same with addresses of IPv6.
//
// Ranges of one set must not overlap. The kernel is no judge of that: of an inet_service alone it
// accepts one that begins before another that reaches to the last port, and some more without
// NLM_F_EXCL, which a Conn always sends; of the other types it accepts one around another, and
// then matches the narrower. To delete one of these, it deletes whichever has the first port
// (nft_pipapo_insert and nft_pipapo_deactivate in net/netfilter/nft_set_pipapo.c). So delete only
// ranges that were read.
//
// Nor is a range changed in place: when it is deleted and another with some of its ports added,
// some packets find neither, even in one transaction (seen on Linux 6.1 and 6.12).
type Range struct {
	// First and Last are the first and the last port.
	First, Last uint16
	// Family is 4 or 6, the family of the nf_proto. Zero: the type has none.
	Family uint8
	// L4Proto is the inet_proto. Zero: the type has none.
	L4Proto uint8
	// Link is the ifname. Empty: the type has none.
	Link string
	// Addr and Other are the first and the second address: prefixes, which may be of one
	// address. Zero: the type has none.
	Addr, Other netip.Prefix
}

// noAddr is the length of a rangeKey without a prefix in bytes.
const noAddr = 0xff

// RangeKey returns the key of a range. It is zero if the range can be in no set: Last is before
// First, prefixes are invalid, mapped to IPv6, of two families or the second without the first,
// or no interface can have the name of the link.
func RangeKey(r Range) Key {
	k := Key{kind: rangeKey, port: r.First, last: r.Last, l4proto: r.L4Proto, family: r.Family, length: noAddr}
	bad := r.Last < r.First || r.Family != 0 && (r.Family != 4 && r.Family != 6 || r.Addr != netip.Prefix{}) ||
		r.Other != netip.Prefix{} && (!r.Other.IsValid() || r.Addr.Addr().Is4() != r.Other.Addr().Is4() || r.Link != "") ||
		r.Addr != netip.Prefix{} && !r.Addr.IsValid() || r.Addr.Addr().Is4In6() || r.Other.Addr().Is4In6() ||
		r.Link != "" && (!interfaceName(r.Link) || !r.Addr.IsValid()) || r.Other.IsValid() && !r.Addr.IsValid()
	switch {
	case bad:
		return Key{}
	case r.Link != "":
		copy(k.bytes[:], r.Link)
		k.second = unique.Make(r.Addr.Masked())
	case r.Addr.IsValid():
		a := prefixed(rangeKey, r.Addr)
		k.bytes, k.family, k.length = a.bytes, a.family, a.length
		if r.Other.IsValid() {
			k.second = unique.Make(r.Other.Masked())
		}
	}
	return k
}

// PortRangeKey is the key of an interval set whose type is inet_service.
func PortRangeKey(first, last uint16) Key { return RangeKey(Range{First: first, Last: last}) }

// Range returns the range of a RangeKey, and whether it is one.
func (k Key) Range() (r Range, ok bool) {
	if k.kind != rangeKey {
		return Range{}, false
	}
	r = Range{First: k.port, Last: k.last, L4Proto: k.l4proto}
	switch {
	case k.length != noAddr:
		r.Addr = netip.PrefixFrom(k.addr(), int(k.length))
		r.Other = k.otherPrefix()
	case k.second != unique.Handle[netip.Prefix]{}:
		r.Link, r.Addr = unix.ByteSliceToString(k.bytes[:]), k.second.Value()
	default:
		r.Family = k.family
	}
	return r, true
}

// rangeText spells the key as nft(8) does.
func (k *Key) rangeText() string {
	r, _ := k.Range()
	var fields []string
	if r.Link != "" {
		fields = append(fields, `"`+r.Link+`"`)
	}
	fields = append(fields, portsText(r.First, r.Last))
	if r.Family != 0 {
		fields = append(fields, fmt.Sprintf("ipv%d", r.Family))
	}
	if r.Addr.IsValid() {
		fields = append(fields, prefixText(r.Addr))
	}
	if r.L4Proto != 0 {
		fields = append(fields, protoText(r.L4Proto))
	}
	if r.Other.IsValid() {
		fields = append(fields, prefixText(r.Other))
	}
	return strings.Join(fields, " . ")
}

func portsText(first, last uint16) string {
	if first == last {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d-%d", first, last)
}

// isRange reports whether the keys of interval sets of the type are ranges of ports.
func (t Type) isRange() bool {
	link := len(t) != 0 && t[0] == IfName
	if link {
		t = t[1:]
	}
	if len(t) == 0 || t[0] != InetService {
		return false
	}
	t = t[1:]
	switch {
	case len(t) == 2 && t[0] == NfProto && t[1] == InetProto:
		return !link
	case len(t) > 1 && t[0].isAddr() && t[1] == InetProto:
		return !link && (len(t) == 2 || len(t) == 3 && t[2] == t[0])
	case link:
		return len(t) == 1 && t[0].isAddr()
	}
	return len(t) == 0 || len(t) == 1 && t[0].isAddr() || t.isPair()
}

// takesRange reports whether a range has just the fields of the type, for which isRange is true.
func (t Type) takesRange(k *Key) bool {
	r, ok := k.Range()
	if !ok {
		return false
	}
	var addrs []DataType
	for _, d := range t {
		if d.isAddr() {
			addrs = append(addrs, d)
		}
	}
	has := func(d DataType) bool { return slices.Contains(t, d) }
	if has(IfName) != (r.Link != "") || has(InetProto) != (r.L4Proto != 0) || has(NfProto) != (r.Family != 0) {
		return false
	}
	for i, p := range []netip.Prefix{r.Addr, r.Other} {
		if p.IsValid() != (i < len(addrs)) || p.IsValid() && !fits(addrs[i], p.Addr()) {
			return false
		}
	}
	return true
}

// appendRange appends the lower or the upper end of a range as a key of the type.
func (t Type) appendRange(b []byte, k *Key, upper bool) []byte {
	r, _ := k.Range()
	port, end := r.First, netip.Prefix.Addr
	if upper {
		port, end = r.Last, lastAddr
	}
	addr := r.Addr
	for _, d := range t {
		switch d { //nolint:exhaustive // isRange is false for the others
		case InetService:
			b = appendPort(b, port, len(t) > 1)
		case NfProto:
			b = append(b, k.nfproto(), 0, 0, 0)
		case InetProto:
			b = append(b, r.L4Proto, 0, 0, 0)
		case IfName:
			b = append(b, k.bytes[:]...)
		default:
			b = appendAddr(b, end(addr))
			addr = r.Other
		}
	}
	return b
}

// decodeRange reads both ends of a range of a concatenation. Without an upper end it is one port
// and single addresses, as nft(8) sends it.
func (t Type) decodeRange(lower, upper []byte) (Key, error) {
	if upper == nil {
		upper = lower
	}
	wrong := fmt.Errorf("the range from %x to %x is no %s", lower, upper, t)
	if len(upper) != len(lower) {
		return Key{}, wrong
	}
	var r Range
	addr := &r.Addr
	for _, d := range t {
		size := dataTypes[d].size
		first, last := lower[:size], upper[:size]
		lower, upper = lower[padded(size):], upper[padded(size):]
		same := string(first) == string(last)
		switch d { //nolint:exhaustive // isRange is false for the others
		case InetService:
			r.First, r.Last, same = binary.BigEndian.Uint16(first), binary.BigEndian.Uint16(last), true
		case NfProto:
			r.Family = 6
			if first[0] == unix.NFPROTO_IPV4 {
				r.Family = 4
			}
			same = same && (r.Family == 4 || first[0] == unix.NFPROTO_IPV6)
		case InetProto:
			r.L4Proto = first[0]
			same = same && r.L4Proto != 0
		case IfName:
			link, err := decodeInterface(first)
			r.Link, _ = link.Interface()
			same = same && err == nil
		default:
			*addr, same = prefixOf(first, last)
			addr = &r.Other
		}
		if !same {
			return Key{}, wrong
		}
	}
	if k := RangeKey(r); k != (Key{}) {
		return k, nil
	}
	return Key{}, wrong
}
