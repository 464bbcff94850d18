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
