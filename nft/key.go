// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Key is the key of an element. It is comparable. Its zero value is no key.
type Key struct {
	// addr holds an address, the first of a prefix, a mark as four bytes with the highest
	// first, or the name of an interface as the kernel has it: 16 bytes. For a segment and a
	// link it is of 16 bytes too, with the interface's name as its zone.
	addr netip.Addr
	port uint16
	// length is the length of a prefix, which that of a segment is too.
	length uint8
	kind   keyKind
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
	// The two elements that the kernel has for a prefix: its first address, and the one
	// behind its last.
	startKey
	endKey
)

// PortKey is the key of a set whose type is inet_service.
func PortKey(port uint16) Key { return Key{kind: portKey, port: port} }

// AddrKey is the key of a set whose type is an address.
func AddrKey(a netip.Addr) Key { return Key{kind: addrKey, addr: a} }

// AddrPortKey is the key of a set whose type is an address and an inet_service.
func AddrPortKey(ap netip.AddrPort) Key {
	return Key{kind: addrPortKey, addr: ap.Addr(), port: ap.Port()}
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
	return Key{kind: interfaceKey, addr: netip.AddrFrom16(b)}
}

// LinkKey is the key of a set whose type is ifname, an address and an inet_service. It is zero
// for a name for which InterfaceKey is.
func LinkKey(name string, ap netip.AddrPort) Key {
	if !interfaceName(name) || !ap.Addr().IsValid() {
		return Key{}
	}
	return Key{kind: linkKey, addr: netip.AddrFrom16(ap.Addr().As16()).WithZone(name), port: ap.Port()}
}

// linkAddr is the address of a linkKey.
func (k *Key) linkAddr() netip.Addr { return k.addr.WithZone("").Unmap() }

// MarkKey is the key of a set whose type is mark.
func MarkKey(mark uint32) Key {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], mark)
	return Key{kind: markKey, addr: netip.AddrFrom4(b)}
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
	p = p.Masked()
	return Key{kind: segmentKey, addr: netip.AddrFrom16(p.Addr().As16()).WithZone(link), length: uint8(p.Bits())}
}

func prefixed(kind keyKind, p netip.Prefix) Key {
	if !p.IsValid() {
		return Key{}
	}
	return Key{kind: kind, addr: p.Masked().Addr(), length: uint8(p.Bits())}
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
	return netip.AddrPortFrom(k.addr, k.port)
}

// Addr returns the address of an AddrKey, and whether it is one.
func (k Key) Addr() (netip.Addr, bool) {
	if k.kind != addrKey {
		return netip.Addr{}, false
	}
	return k.addr, true
}

// Interface returns the name of an InterfaceKey or a LinkKey, and whether it is one.
func (k Key) Interface() (string, bool) {
	if k.kind == linkKey {
		return k.addr.Zone(), true
	}
	if k.kind != interfaceKey {
		return "", false
	}
	b := k.addr.As16()
	return unix.ByteSliceToString(b[:]), true
}

// Mark returns the mark of a MarkKey, and whether it is one.
func (k Key) Mark() (uint32, bool) {
	if k.kind != markKey {
		return 0, false
	}
	b := k.addr.As4()
	return binary.BigEndian.Uint32(b[:]), true
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
	return k.addr.Zone(), netip.PrefixFrom(k.addr.WithZone("").Unmap(), int(k.length)), true
}

func (k Key) prefix(kind keyKind) (netip.Prefix, bool) {
	if k.kind != kind {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(k.addr, int(k.length)), true
}

// Compare orders the keys of one map or set: by address, prefix length and port, or by name.
// Segments are in the order of their addresses, those of one address in that of their links.
func (k Key) Compare(o Key) int {
	return cmp.Or(k.addr.Compare(o.addr), cmp.Compare(k.length, o.length), cmp.Compare(k.port, o.port))
}

// String returns the key as nft(8) spells it.
func (k Key) String() string {
	switch k.kind {
	case portKey:
		return fmt.Sprint(k.port)
	case addrPortKey:
		return fmt.Sprintf("%s . %d", k.addr, k.port)
	case linkKey:
		return fmt.Sprintf(`"%s" . %s . %d`, k.addr.Zone(), k.linkAddr(), k.port)
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
	case addrKey, startKey, endKey:
		return k.addr.String()
	case noKey:
	}
	return "invalid"
}

// prefixText spells a prefix as nft(8) lists it.
func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// holds returns the kind of the keys of the map or set, or noKey.
func (c *Set) holds() keyKind {
	t := c.Key
	switch {
	case c.Interval && t.isAddr():
		return prefixKey
	case c.Interval && t.isPair():
		return pairKey
	case c.Interval && t.isSegment():
		return segmentKey
	case c.Interval:
		return noKey
	case t.isPort():
		return portKey
	case t.isAddr():
		return addrKey
	case t.isAddrPort():
		return addrPortKey
	case t.isInterface():
		return interfaceKey
	case t.isMark():
		return markKey
	case t.isLink():
		return linkKey
	}
	return noKey
}

func (c *Set) checkKey(k *Key) error {
	ok := k.kind != noKey && k.kind == c.holds()
	switch {
	case !ok || k.kind == portKey || k.kind == interfaceKey || k.kind == markKey:
	case k.kind == segmentKey:
		_, p, _ := k.Segment()
		ok = fits(c.Key[2], p.Addr())
	case k.kind == linkKey:
		ok = fits(c.Key[1], k.linkAddr())
	default:
		ok = fits(c.Key[0], k.addr)
	}
	if !ok {
		return fmt.Errorf("the key is no %s", c.Key)
	}
	return nil
}

// The types of which there are keys and values.

func (d DataType) isAddr() bool { return d == IPv4Addr || d == IPv6Addr }

func (t Type) isPort() bool { return len(t) == 1 && t[0] == InetService }

func (t Type) isAddr() bool { return len(t) == 1 && t[0].isAddr() }

func (t Type) isInterface() bool { return len(t) == 1 && t[0] == IfName }

func (t Type) isMark() bool { return len(t) == 1 && t[0] == Mark }

func (t Type) isAddrPort() bool { return len(t) == 2 && t[0].isAddr() && t[1] == InetService }

func (t Type) isLink() bool { return len(t) == 3 && t[0] == IfName && t[1:].isAddrPort() }

func (t Type) isPair() bool { return len(t) == 2 && t[0].isAddr() && t[0] == t[1] }

func (t Type) isSegment() bool {
	return len(t) == 3 && t[0] == IfName && t[1] == IfName && t[2].isAddr()
}

// fits reports whether the address is one of the data type.
func fits(d DataType, a netip.Addr) bool {
	return d == IPv4Addr && a.Is4() || d == IPv6Addr && a.Is6() && !a.Is4In6() && a.Zone() == ""
}
