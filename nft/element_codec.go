// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// What x/sys does not name of include/uapi/linux/netfilter/nf_tables.h, libnftnl's
// include/libnftnl/udata.h, and nftables' include/datatype.h (enum byteorder).
const (
	nftaSetElemKeyEnd  = 10
	nftaTableUserdata  = 6
	nftaChainUserdata  = 12
	nftaSetDescConcat  = 2
	nftaSetFieldLen    = 1
	nftSetConcat       = 0x80
	nftaSetCount       = 20
	udataComment       = 0    // NFTNL_UDATA_{TABLE,CHAIN,RULE,SET_ELEM}_COMMENT
	udataKeyByteOrder  = 0    // NFTNL_UDATA_SET_KEYBYTEORDER
	udataDataByteOrder = 1    // NFTNL_UDATA_SET_DATABYTEORDER
	udataFlags         = 1    // NFTNL_UDATA_SET_ELEM_FLAGS
	intervalOpen       = 1    // SET_ELEM_F_INTERVAL_OPEN of nftables' include/rule.h
	byteOrderHost      = 1    // BYTEORDER_HOST_ENDIAN
	udataTag           = 0x4e // not one of libnftnl's, which skips what it does not know
	udataHeader        = 2    // a byte for the type, a byte for the length
)

// appendElement appends the element, which has passed check, to a list.
func (c *Set) appendElement(b []byte, e *Element) []byte {
	b = c.openElement(b, &e.Key)
	if c.Value != nil {
		b, at := nlwire.OpenAttr(b, nlwire.Nested|unix.NFTA_SET_ELEM_DATA)
		b, value := nlwire.OpenAttr(b, unix.NFTA_DATA_VALUE)
		switch {
		case c.Value.isMark():
			b = binary.NativeEndian.AppendUint32(b, e.Mark)
		case c.Value.isPort():
			b = appendPort(b, e.Value.Port(), false)
		case c.Value.isAddr():
			b = appendAddr(b, e.Value.Addr())
		default:
			b = appendPort(appendAddr(b, e.Value.Addr()), e.Value.Port(), true)
		}
		b = nlwire.CloseAttr(b, value)
		return appendLife(nlwire.CloseAttr(b, at), e)
	}
	return appendLife(b, e)
}

// appendLife appends what follows key and value: time-out and comment.
func appendLife(b []byte, e *Element) []byte {
	if e.Timeout != 0 {
		b = nlwire.AppendBE64(b, unix.NFTA_SET_ELEM_TIMEOUT, milliseconds(e.Timeout))
	}
	if e.Expires != 0 {
		b = nlwire.AppendBE64(b, unix.NFTA_SET_ELEM_EXPIRATION, milliseconds(e.Expires))
	}
	var udata []byte
	if e.Comment != "" {
		udata = appendComment(udata, e.Comment)
	}
	if e.Key.isOpen() {
		// As nft(8) does: the range has no end of its own that could be looked for.
		udata = append(append(udata, udataFlags, 4), host32(intervalOpen)...)
	}
	if udata != nil {
		b = nlwire.AppendAttr(b, unix.NFTA_SET_ELEM_USERDATA, udata...)
	}
	return b
}

// isOpen reports whether the key is that of a range of ports up to the last one, in a tree, which
// has no end there.
func (k *Key) isOpen() bool {
	return k.kind == rangeKey && k.last == lastPort && *k == PortRangeKey(k.port, lastPort)
}

const lastPort = 1<<16 - 1

// milliseconds rounds up, so that a short time-out does not become none.
func milliseconds(d time.Duration) uint64 {
	ms := uint64(d / time.Millisecond)
	if d%time.Millisecond != 0 {
		ms++
	}
	return ms
}

// appendComment appends a comment as user data, which the kernel keeps and nft(8) reads.
func appendComment(b []byte, comment string) []byte {
	b = append(b, udataComment, byte(len(comment)+1))
	b = append(b, comment...)
	return append(b, 0)
}

// comment finds the comment in user data, of which others can write any.
func comment(udata []byte) string {
	return unix.ByteSliceToString(userdata(udata, udataComment))
}

// userdata finds the value of a type in user data; nil: there is none.
func userdata(udata []byte, kind byte) []byte {
	for len(udata) >= udataHeader {
		n := int(udata[1])
		if len(udata) < udataHeader+n {
			return nil
		}
		if udata[0] == kind {
			return udata[udataHeader : udataHeader+n]
		}
		udata = udata[udataHeader+n:]
	}
	return nil
}

// openElement appends the key of an element, which a deletion needs, without the end of a range in
// a tree.
func (c *Set) openElement(b []byte, k *Key) []byte {
	b = c.appendKey(b, k)
	if k.kind != pairKey && k.kind != segmentKey && k.kind != clientsKey && (k.kind != rangeKey || c.isTree()) {
		return b
	}
	return c.appendKeyEnd(b, k)
}

// appendKey appends the key, or the lower end of a range.
func (c *Set) appendKey(b []byte, k *Key) []byte {
	b, at := nlwire.OpenAttr(b, nlwire.Nested|unix.NFTA_SET_ELEM_KEY)
	b, value := nlwire.OpenAttr(b, unix.NFTA_DATA_VALUE)
	switch k.kind {
	case portKey:
		b = appendPort(b, k.port, false)
	case addrPortKey:
		b = appendPort(appendAddr(b, k.addr()), k.port, true)
	case linkKey:
		b = appendPort(appendAddr(append(b, k.bytes[:]...), k.linkAddr()), k.port, true)
	case pairKey:
		b = appendAddr(appendAddr(b, k.addr()), k.addr())
	case segmentKey:
		b = k.appendSegment(b, k.second.Value().Addr())
	case interfaceKey:
		b = append(b, k.bytes[:]...)
	case markKey:
		mark, _ := k.Mark()
		b = binary.NativeEndian.AppendUint32(b, mark)
	case startKey, endKey:
		if k.family == 0 {
			b = appendPort(b, k.port, false)
		} else {
			b = appendAddr(b, k.addr())
		}
	case addrKey, prefixKey:
		b = appendAddr(b, k.addr())
	case rangeKey:
		b = c.Key.appendRange(b, k, false)
	case familyServiceKey:
		b = append(b, k.nfproto(), 0, 0, 0, k.l4proto, 0, 0, 0)
		b = appendPort(b, k.port, true)
	case serviceKey:
		b = k.appendService(b)
	case calledKey:
		b = appendAddr(k.appendService(b), k.second.Value().Addr())
	case clientsKey:
		b = appendAddr(appendPort(appendAddr(b, k.addr()), k.port, true), k.second.Value().Addr())
	case noKey: // has not passed check
	}
	return nlwire.CloseAttr(nlwire.CloseAttr(b, value), at)
}

// appendKeyEnd appends the upper end of a range.
func (c *Set) appendKeyEnd(b []byte, k *Key) []byte {
	b, at := nlwire.OpenAttr(b, nlwire.Nested|nftaSetElemKeyEnd)
	b, value := nlwire.OpenAttr(b, unix.NFTA_DATA_VALUE)
	switch k.kind { //nolint:exhaustive // the others have no end
	case clientsKey:
		b = appendPort(appendAddr(b, lastAddr(k.frontends())), k.last, true)
		b = appendAddr(b, lastAddr(k.second.Value()))
	case segmentKey:
		b = k.appendSegment(b, lastAddr(k.second.Value()))
	case rangeKey:
		b = c.Key.appendRange(b, k, true)
	default:
		pair, _ := k.Pair()
		last := lastAddr(pair)
		b = appendAddr(appendAddr(b, last), last)
	}
	return nlwire.CloseAttr(nlwire.CloseAttr(b, value), at)
}

// appendSegment appends one end of a segment: the name of its link twice, and an address.
func (k *Key) appendSegment(b []byte, a netip.Addr) []byte {
	return appendAddr(append(append(b, k.bytes[:]...), k.bytes[:]...), a)
}

// appendService appends protocol, address and port, each in registers of its own.
func (k *Key) appendService(b []byte) []byte {
	return appendPort(appendAddr(append(b, k.l4proto, 0, 0, 0), k.addr()), k.port, true)
}

// nfproto is the number of the family of the key's address.
func (k *Key) nfproto() byte {
	if k.family == 4 {
		return unix.NFPROTO_IPV4
	}
	return unix.NFPROTO_IPV6
}

func appendAddr(b []byte, a netip.Addr) []byte {
	if a.Is4() {
		v := a.As4()
		return append(b, v[:]...)
	}
	v := a.As16()
	return append(b, v[:]...)
}

// appendPort appends a port, padded to a register in a concatenation.
func appendPort(b []byte, port uint16, concatenated bool) []byte {
	b = binary.BigEndian.AppendUint16(b, port)
	if concatenated {
		b = append(b, 0, 0)
	}
	return b
}

// lastAddr is the highest address of the prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i, m := range mask(p) {
		b[i] |= ^m
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// life converts a time-out. One that is too long for a Duration becomes the longest.
func life(ms uint64) time.Duration {
	return time.Duration(min(ms, math.MaxInt64/uint64(time.Millisecond))) * time.Millisecond
}

// decodeElement reads one member of a list of elements into e.
func (c *Set) decodeElement(e *Element, b []byte) error {
	*e = Element{Set: c.Name}
	var key, end, value []byte
	var flags uint32
	a := nlwire.Attrs{Data: b}
	for a.Next() {
		switch a.Type {
		case unix.NFTA_SET_ELEM_KEY:
			key = nlwire.Find(a.Payload, unix.NFTA_DATA_VALUE)
		case nftaSetElemKeyEnd:
			end = nlwire.Find(a.Payload, unix.NFTA_DATA_VALUE)
		case unix.NFTA_SET_ELEM_FLAGS:
			flags = a.BE32()
		case unix.NFTA_SET_ELEM_DATA:
			value = nlwire.Find(a.Payload, unix.NFTA_DATA_VALUE)
		case unix.NFTA_SET_ELEM_TIMEOUT:
			e.Timeout = life(a.BE64())
		case unix.NFTA_SET_ELEM_EXPIRATION:
			// Zero would be the whole time-out when the element is added again.
			e.Expires = max(life(a.BE64()), time.Millisecond)
		case unix.NFTA_SET_ELEM_USERDATA:
			e.Comment = comment(a.Payload)
		}
	}
	if a.Err != nil {
		return a.Err
	}
	var err error
	if e.Key, err = c.decodeKey(key, end, flags); err != nil || e.Key.kind == endKey {
		return err
	}
	return c.decodeValue(e, value)
}

func (c *Set) decodeValue(e *Element, value []byte) error {
	switch {
	case c.Value == nil:
	case len(value) != c.Value.size():
		return fmt.Errorf("a value of %d bytes is no %s", len(value), c.Value)
	case c.Value.isAddrPort():
		e.Value = decodeAddrPort(value)
	case c.Value.isAddr() && c.holds() == rangeKey:
		addr, _ := netip.AddrFromSlice(value)
		e.Value = netip.AddrPortFrom(addr, 0)
	case c.Value.isMark():
		e.Mark = binary.NativeEndian.Uint32(value)
	case c.Value.isPort():
		e.Value = netip.AddrPortFrom(netip.Addr{}, binary.BigEndian.Uint16(value))
	default:
		return fmt.Errorf("there are no values of type %s", c.Value)
	}
	return nil
}

func (c *Set) decodeKey(key, end []byte, flags uint32) (Key, error) {
	if len(key) != c.Key.size() {
		return Key{}, fmt.Errorf("a key of %d bytes is no %s", len(key), c.Key)
	}
	kind := c.holds()
	isEnd := flags&unix.NFT_SET_ELEM_INTERVAL_END != 0
	if isEnd && !c.isTree() {
		return Key{}, fmt.Errorf("the end of a range is no %s", c.Key)
	}
	switch kind {
	case portKey:
		return PortKey(binary.BigEndian.Uint16(key)), nil
	case addrPortKey:
		return AddrPortKey(decodeAddrPort(key)), nil
	case pairKey:
		return decodePair(key, end)
	case segmentKey:
		return decodeSegment(key, end)
	case interfaceKey:
		return decodeInterface(key)
	case linkKey:
		link, err := decodeInterface(key[:unix.IFNAMSIZ])
		at := decodeAddrPort(key[unix.IFNAMSIZ:])
		if err == nil && at.Addr().Is4In6() {
			err = fmt.Errorf("%s is no address of IPv6", at.Addr())
		}
		if err != nil {
			return Key{}, err
		}
		name, _ := link.Interface()
		return LinkKey(name, at), nil
	case markKey:
		return MarkKey(binary.NativeEndian.Uint32(key)), nil
	case rangeKey:
		if !c.isTree() {
			return c.Key.decodeRange(key, end)
		}
		k := Key{kind: startKey, port: binary.BigEndian.Uint16(key)}
		if isEnd {
			k.kind = endKey
		}
		return k, nil
	case addrKey, prefixKey, startKey, endKey:
		addr, _ := netip.AddrFromSlice(key)
		switch {
		case isEnd:
			kind = endKey
		case kind != addrKey:
			kind = startKey
		}
		return keyOf(kind, addr, 0), nil
	case familyServiceKey, serviceKey, calledKey:
		return c.decodeService(kind, key)
	case clientsKey:
		return decodeClients(key, end)
	case noKey:
	}
	return Key{}, fmt.Errorf("there are no keys of type %s", c.Key)
}

// decodeService reads a protocol and a port with an address, or with the family of any, and
// behind them the address that was called, if the kind has one.
func (c *Set) decodeService(kind keyKind, b []byte) (Key, error) {
	if kind == familyServiceKey {
		any := netip.IPv6Unspecified()
		if b[0] == unix.NFPROTO_IPV4 {
			any = netip.IPv4Unspecified()
		} else if b[0] != unix.NFPROTO_IPV6 {
			return Key{}, fmt.Errorf("protocol family %d is neither IPv4 nor IPv6", b[0])
		}
		return ServiceKey(b[4], netip.AddrPortFrom(any, binary.BigEndian.Uint16(b[8:]))), nil
	}
	size := dataTypes[c.Key[1]].size
	at := decodeAddrPort(b[4 : 8+size])
	k := ServiceKey(b[0], at)
	if kind == calledKey {
		called, _ := netip.AddrFromSlice(b[8+size:])
		k = CalledKey(b[0], at, called)
	}
	if k.kind != kind {
		return Key{}, fmt.Errorf("a key of %x is no %s", b, c.Key)
	}
	return k, nil
}

// decodeClients reads the range of one address or any, ports, and the clients of a prefix.
func decodeClients(first, last []byte) (Key, error) {
	if last == nil {
		last = first
	}
	size := (len(first) - 4) / 2
	if len(last) == len(first) {
		front, back := decodeAddrPort(first[:size+4]), decodeAddrPort(last[:size+4])
		at, ok := prefixOf(first[:size], last[:size])
		clients, ok2 := prefixOf(first[size+4:], last[size+4:])
		if ok && ok2 {
			if k := ClientsOfKey(front, back.Port(), clients); k != (Key{}) && k.frontends() == at {
				return k, nil
			}
		}
	}
	return Key{}, fmt.Errorf("the range from %x to %x is none of ports with a prefix", first, last)
}

// decodeInterface reads the name of an interface.
func decodeInterface(b []byte) (Key, error) {
	name := unix.ByteSliceToString(b)
	if k := InterfaceKey(name); k != (Key{}) && len(bytes.TrimRight(b[len(name):], "\x00")) == 0 {
		return k, nil
	}
	return Key{}, fmt.Errorf("%q is no interface name", b)
}

// decodeAddrPort reads an address and a port, each in registers of its own.
func decodeAddrPort(b []byte) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(b[:len(b)-4])
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[len(b)-4:]))
}

// decodePair reads a range of two addresses that is one prefix for both. Without an end
// it is a range of one address each, as nft(8) sends it.
func decodePair(key, end []byte) (Key, error) {
	if end == nil {
		end = key
	}
	half := len(key) / 2
	if len(end) == len(key) && bytes.Equal(key[:half], key[half:]) && bytes.Equal(end[:half], end[half:]) {
		if p, ok := prefixOf(key[:half], end[:half]); ok {
			return PairKey(p), nil
		}
	}
	return Key{}, fmt.Errorf("the range from %x to %x is no pair of one prefix", key, end)
}

// decodeSegment reads a range that is one link, twice, and one prefix.
func decodeSegment(key, end []byte) (Key, error) {
	if end == nil {
		end = key
	}
	const names = 2 * unix.IFNAMSIZ
	if len(end) == len(key) && bytes.Equal(key[:names], end[:names]) && bytes.Equal(key[:names/2], key[names/2:names]) {
		link, err := decodeInterface(key[:names/2])
		if err != nil {
			return Key{}, err
		}
		name, _ := link.Interface()
		if p, ok := prefixOf(key[names:], end[names:]); ok {
			if k := SegmentKey(name, p); k != (Key{}) {
				return k, nil
			}
		}
	}
	return Key{}, fmt.Errorf("the range from %x to %x is no prefix of one link", key, end)
}

// prefixOf returns the prefix that begins and ends with the addresses, if there is one.
func prefixOf(first, last []byte) (netip.Prefix, bool) {
	addr, _ := netip.AddrFromSlice(first)
	p := netip.PrefixFrom(addr, sameBits(first, last))
	return p, p.Masked().Addr() == addr && bytes.Equal(lastAddr(p).AsSlice(), last)
}

// sameBits is the number of leading bits that are equal.
func sameBits(a, b []byte) int {
	for i := range a {
		if x := a[i] ^ b[i]; x != 0 {
			return 8*i + bits.LeadingZeros8(x)
		}
	}
	return 8 * len(a)
}
