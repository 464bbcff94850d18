// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"unique"

	"golang.org/x/sys/unix"
)

// Key is the key of an element. It is comparable. Its zero value is no key.
type Key struct {
	// bytes holds an address, the first of a prefix, a mark as four bytes with the highest
	// first, or the name of an interface as the kernel has it.
	bytes [16]byte
	// second is the other address of a calledKey, as a prefix, the prefix of a clientsKey or
	// a segmentKey, or the address of a linkKey. The latter two have the name of an interface in
	// bytes.
	second unique.Handle[netip.Prefix]
	port   uint16
	// last is the last port of a rangeKey or a clientsKey, whose first is port.
	last uint16
	// length is the length of a prefix, or noAddr for a rangeKey without one.
	length uint8
	kind   keyKind
	// family is that of the address in bytes: 4 or 6; zero: there is none.
	family uint8
	// l4proto is the number of the protocol of a serviceKey or calledKey.
	l4proto uint8
}

// keyOf returns a key of an address; it is zero if the address has a zone.
func keyOf(kind keyKind, a netip.Addr, port uint16) Key {
	switch {
	case a.Is4():
		k := Key{kind: kind, port: port, family: 4}
		v := a.As4()
		copy(k.bytes[:], v[:])
		return k
	case a.Is6() && a.Zone() == "":
		return Key{kind: kind, port: port, family: 6, bytes: a.As16()}
	}
	return Key{}
}

// addr returns the address in the key; zero: there is none.
func (k *Key) addr() netip.Addr {
	switch k.family {
	case 4:
		return netip.AddrFrom4([4]byte(k.bytes[:4]))
	case 6:
		return netip.AddrFrom16(k.bytes)
	}
	return netip.Addr{}
}

// keyKind says what a key is made of.
type keyKind uint8

const (
	noKey keyKind = iota
	portKey
	addrKey
	addrPortKey
	interfaceKey
	prefixKey
	pairKey
	segmentKey
	markKey
	linkKey
	// The two elements that the kernel has for a prefix or a range of ports: its first address
	// or port, and the one behind its last.
	startKey
	endKey
	// familyServiceKey is a serviceKey of any address of the family.
	familyServiceKey
	serviceKey
	calledKey
	clientsKey
	rangeKey
)

// PortKey is the key of a set whose type is inet_service.
func PortKey(port uint16) Key { return Key{kind: portKey, port: port} }

// AddrKey is the key of a set whose type is an address.
func AddrKey(a netip.Addr) Key { return keyOf(addrKey, a, 0) }

// AddrPortKey is the key of a set whose type is an address and an inet_service.
func AddrPortKey(ap netip.AddrPort) Key {
	return keyOf(addrPortKey, ap.Addr(), ap.Port())
}

// InterfaceKey is the key of a set whose type is ifname. It is zero for a name that no
// interface can have or that nft(8) cannot read: names have 1 to 15 bytes without spaces,
// control characters and any of / : " * and \.
func InterfaceKey(name string) Key {
	if !interfaceName(name) {
		return Key{}
	}
	var b [unix.IFNAMSIZ]byte
	copy(b[:], name)
	return Key{kind: interfaceKey, bytes: b}
}

// LinkKey is the key of a set whose type is ifname, an address and an inet_service. It is zero
// for a name for which InterfaceKey is.
func LinkKey(name string, ap netip.AddrPort) Key {
	if !interfaceName(name) || !ap.Addr().IsValid() {
		return Key{}
	}
	k := Key{kind: linkKey, second: unique.Make(netip.PrefixFrom(ap.Addr(), ap.Addr().BitLen())), port: ap.Port()}
	copy(k.bytes[:], name)
	return k
}

// linkAddr is the address of a linkKey.
func (k *Key) linkAddr() netip.Addr { return k.second.Value().Addr() }

// MarkKey is the key of a set whose type is mark.
func MarkKey(mark uint32) Key {
	k := Key{kind: markKey}
	binary.BigEndian.PutUint32(k.bytes[:], mark)
	return k
}

// PrefixKey is the key of an interval set whose type is an address. It matches every address
// within the prefix. It is zero for an invalid prefix.
//
// Prefixes of one set must not overlap. The kernel refuses one that does (unix.EEXIST), but
// not one that reaches to the highest address and contains others: that is read as Foreign,
// since it ends where the next begins. The kernel refuses to delete a prefix that is not
// there (unix.ENOENT), but not one that reaches to the highest address if another begins at
// the same address: that loses its beginning. Up to Linux 6.12 it also takes the beginning
// and the end of two prefixes for one (nft_rbtree_deactivate_same_interval in
// net/netfilter/nft_set_rbtree.c).
func PrefixKey(p netip.Prefix) Key { return prefixed(prefixKey, p) }

// PairKey is the key of an interval set whose type is two addresses. It matches if both
// lie within the prefix.
//
// Pairs of one set must not overlap. The kernel refuses one whose first or last
// address lies in another (unix.EEXIST), but not one that contains others. To delete one, it
// deletes the oldest that contains its first address
// (nft_pipapo_insert and nft_pipapo_deactivate in net/netfilter/nft_set_pipapo.c).
func PairKey(p netip.Prefix) Key { return prefixed(pairKey, p) }

// SegmentKey is the key of an interval set whose type is two ifnames and an address. It
// matches if both interfaces are the link and the address lies within the prefix, as those
// of a packet from a machine on the link that leaves by that link again. It is zero for a
// name of which there is no InterfaceKey, for an invalid prefix, and for one of IPv4
// addresses mapped to IPv6.
//
// Segments of one set and one link must not overlap: see PairKey.
func SegmentKey(link string, p netip.Prefix) Key {
	if !interfaceName(link) || !p.IsValid() || p.Addr().Is4In6() {
		return Key{}
	}
	k := Key{kind: segmentKey, second: unique.Make(p.Masked())}
	copy(k.bytes[:], link)
	return k
}

func prefixed(kind keyKind, p netip.Prefix) Key {
	if !p.IsValid() {
		return Key{}
	}
	k := keyOf(kind, p.Masked().Addr(), 0)
	if k != (Key{}) {
		k.length = uint8(p.Bits())
	}
	return k
}

// ServiceKey is the key of a set whose type is an inet_proto, an address and an
// inet_service. The unspecified address is that of a set whose type is a nf_proto, an
// inet_proto and an inet_service, and stands for its family.
func ServiceKey(l4proto uint8, ap netip.AddrPort) Key {
	k := keyOf(serviceKey, ap.Addr(), ap.Port())
	if k == (Key{}) {
		return k
	}
	k.l4proto = l4proto
	if ap.Addr().IsUnspecified() {
		k.kind = familyServiceKey
	}
	return k
}

// CalledKey is the key of a set whose type is an inet_proto, an address, an inet_service and
// the address that a client called. Both addresses are of one family.
func CalledKey(l4proto uint8, ap netip.AddrPort, called netip.Addr) Key {
	k, other := keyOf(calledKey, ap.Addr(), ap.Port()), keyOf(calledKey, called, 0)
	if k == (Key{}) || k.family != other.family {
		return Key{}
	}
	k.l4proto, k.second = l4proto, unique.Make(netip.PrefixFrom(called, called.BitLen()))
	return k
}

// ClientsKey is the key of an interval set whose type is an address, an inet_service, and an
// address of a client. The unspecified address matches any. Address and prefix are of one
// family.
//
// Keys of one set must not overlap: the kernel refuses one that is within another
// (unix.EEXIST).
func ClientsKey(ap netip.AddrPort, clients netip.Prefix) Key {
	k, other := keyOf(clientsKey, ap.Addr(), ap.Port()), prefixed(clientsKey, clients)
	if k == (Key{}) || k.family != other.family {
		return Key{}
	}
	k.second, k.last = unique.Make(clients.Masked()), k.port
	return k
}

// ClientsOfKey is a ClientsKey of all ports from that of ap to the last. It is zero if that is
// before the first.
func ClientsOfKey(ap netip.AddrPort, last uint16, clients netip.Prefix) Key {
	k := ClientsKey(ap, clients)
	if k == (Key{}) || last < ap.Port() {
		return Key{}
	}
	k.last = last
	return k
}

// AddrPort returns the address of an AddrPortKey or a LinkKey, which is zero for a PortKey,
// and the port. Both are zero for other keys.
func (k Key) AddrPort() netip.AddrPort {
	if k.kind == linkKey {
		return netip.AddrPortFrom(k.linkAddr(), k.port)
	}
	if k.kind != portKey && k.kind != addrPortKey {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(k.addr(), k.port)
}

// Addr returns the address of an AddrKey, and whether it is one.
func (k Key) Addr() (netip.Addr, bool) {
	if k.kind != addrKey {
		return netip.Addr{}, false
	}
	return k.addr(), true
}

// Interface returns the name of an InterfaceKey or a LinkKey, and whether it is one.
func (k Key) Interface() (string, bool) {
	if k.kind != interfaceKey && k.kind != linkKey {
		return "", false
	}
	return unix.ByteSliceToString(k.bytes[:]), true
}

// Mark returns the mark of a MarkKey, and whether it is one.
func (k Key) Mark() (uint32, bool) {
	if k.kind != markKey {
		return 0, false
	}
	return binary.BigEndian.Uint32(k.bytes[:]), true
}

// Prefix returns the prefix of a PrefixKey, and whether it is one.
func (k Key) Prefix() (netip.Prefix, bool) { return k.prefix(prefixKey) }

// Pair returns the prefix of a PairKey, and whether it is one.
func (k Key) Pair() (netip.Prefix, bool) { return k.prefix(pairKey) }

// Segment returns the link and the prefix of a SegmentKey, and whether it is one.
func (k Key) Segment() (link string, p netip.Prefix, ok bool) {
	if k.kind != segmentKey {
		return "", netip.Prefix{}, false
	}
	return unix.ByteSliceToString(k.bytes[:]), k.second.Value(), true
}

func (k Key) prefix(kind keyKind) (netip.Prefix, bool) {
	if k.kind != kind {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(k.addr(), int(k.length)), true
}

// Service returns the protocol, address and port of a ServiceKey, and whether it is one.
func (k Key) Service() (l4proto uint8, ap netip.AddrPort, ok bool) {
	if k.kind != serviceKey && k.kind != familyServiceKey {
		return 0, netip.AddrPort{}, false
	}
	return k.l4proto, netip.AddrPortFrom(k.addr(), k.port), true
}

// Called returns the protocol, the address and port, and the address that was called of a
// CalledKey, and whether it is one.
func (k Key) Called() (l4proto uint8, ap netip.AddrPort, called netip.Addr, ok bool) {
	if k.kind != calledKey {
		return 0, netip.AddrPort{}, netip.Addr{}, false
	}
	return k.l4proto, netip.AddrPortFrom(k.addr(), k.port), k.second.Value().Addr(), true
}

// LastPort returns the last port of a ClientsOfKey or a RangeKey, which may be the first one of it.
// It is zero for other keys.
func (k Key) LastPort() uint16 { return k.last }

// Clients returns the address and the first port and the clients of a ClientsKey, and whether it
// is one.
func (k Key) Clients() (ap netip.AddrPort, clients netip.Prefix, ok bool) {
	if k.kind != clientsKey {
		return netip.AddrPort{}, netip.Prefix{}, false
	}
	return netip.AddrPortFrom(k.addr(), k.port), k.second.Value(), true
}

// Compare orders the keys of one map or set: by address, prefix length and port, or by name;
// then by the other fields. Segments are in the order of their addresses, those of one address
// in that of their links.
func (k Key) Compare(o Key) int {
	if k.kind == segmentKey && o.kind == segmentKey {
		a, b := k.second.Value(), o.second.Value()
		return cmp.Or(a.Addr().Compare(b.Addr()), bytes.Compare(k.bytes[:], o.bytes[:]), cmp.Compare(a.Bits(), b.Bits()))
	}
	if c := cmp.Or(cmp.Compare(k.family, o.family), bytes.Compare(k.bytes[:], o.bytes[:]), cmp.Compare(k.length, o.length),
		cmp.Compare(k.port, o.port), cmp.Compare(k.last, o.last), cmp.Compare(k.l4proto, o.l4proto)); c != 0 || k.second == o.second {
		return c
	}
	a, b := k.otherPrefix(), o.otherPrefix()
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// otherPrefix is the second prefix of the key, if it has one.
func (k *Key) otherPrefix() netip.Prefix {
	if k.second == (unique.Handle[netip.Prefix]{}) {
		return netip.Prefix{}
	}
	return k.second.Value()
}

// String returns the key as nft(8) spells it.
func (k Key) String() string {
	switch k.kind {
	case portKey:
		return fmt.Sprint(k.port)
	case addrPortKey:
		return fmt.Sprintf("%s . %d", k.addr(), k.port)
	case linkKey:
		name := unix.ByteSliceToString(k.bytes[:])
		return fmt.Sprintf(`"%s" . %s . %d`, name, k.linkAddr(), k.port)
	case interfaceKey:
		name, _ := k.Interface()
		return `"` + name + `"`
	case prefixKey:
		p, _ := k.Prefix()
		return prefixText(p)
	case pairKey:
		p, _ := k.Pair()
		return fmt.Sprintf("%s . %s", p, p)
	case segmentKey:
		link, p, _ := k.Segment()
		return fmt.Sprintf(`"%s" . "%s" . %s`, link, link, prefixText(p))
	case markKey:
		mark, _ := k.Mark()
		return markText(mark)
	case startKey, endKey:
		if k.family == 0 {
			return fmt.Sprint(k.port)
		}
		return k.addr().String()
	case addrKey:
		return k.addr().String()
	case familyServiceKey:
		return fmt.Sprintf("ipv%d . %s . %d", k.family, protoText(k.l4proto), k.port)
	case serviceKey:
		return fmt.Sprintf("%s . %s . %d", protoText(k.l4proto), k.addr(), k.port)
	case calledKey:
		return fmt.Sprintf("%s . %s . %d . %s", protoText(k.l4proto), k.addr(), k.port, k.second.Value().Addr())
	case clientsKey:
		return fmt.Sprintf("%s . %s . %s", prefixText(k.frontends()), portsText(k.port, k.last), prefixText(k.second.Value()))
	case rangeKey:
		return k.rangeText()
	case noKey:
	}
	return "invalid"
}

// frontends is the prefix of the address of a clientsKey.
func (k *Key) frontends() netip.Prefix {
	a := k.addr()
	if a.IsUnspecified() {
		return netip.PrefixFrom(a, 0)
	}
	return netip.PrefixFrom(a, a.BitLen())
}

// prefixText spells a prefix as nft(8) does: that of one address without its length.
func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// protoText spells a protocol as nft(8) does, of which it knows the names from a table of its
// own.
func protoText(l4proto uint8) string {
	switch l4proto {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	}
	return strconv.Itoa(int(l4proto))
}
