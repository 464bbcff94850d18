// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"encoding/binary"
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
