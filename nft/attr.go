// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"encoding/binary"
	"errors"
)

// Netlink attributes: a length and a type in host byte order, then the payload,
// padded to 4 bytes (struct nlattr in include/uapi/linux/netlink.h). Both
// directions work in place: a transaction may carry 60,000 elements.

const (
	attrHeader = 4
	nested     = 0x8000 // NLA_F_NESTED
	attrType   = 0x3fff // NLA_TYPE_MASK
)

// appendAttr appends an attribute with its payload.
func appendAttr(b []byte, typ uint16, payload []byte) []byte {
	b, at := openAttr(b, typ)
	b = append(b, payload...)
	return closeAttr(b, at)
}

// appendString appends an attribute that is a NUL-terminated string.
func appendString(b []byte, typ uint16, s string) []byte {
	b, at := openAttr(b, typ)
	b = append(b, s...)
	b = append(b, 0)
	return closeAttr(b, at)
}

// appendBE32 appends an attribute that is a 32-bit number in network byte order, as
// all numbers of nf_tables are.
func appendBE32(b []byte, typ uint16, v uint32) []byte {
	b, at := openAttr(b, typ)
	b = binary.BigEndian.AppendUint32(b, v)
	return closeAttr(b, at)
}

// appendBE64 is appendBE32 for 64 bits.
func appendBE64(b []byte, typ uint16, v uint64) []byte {
	b, at := openAttr(b, typ)
	b = binary.BigEndian.AppendUint64(b, v)
	return closeAttr(b, at)
}

// openAttr begins an attribute whose payload the caller appends, and returns where
// it begins, for closeAttr.
func openAttr(b []byte, typ uint16) ([]byte, int) {
	at := len(b)
	b = append(b, 0, 0)
	return binary.NativeEndian.AppendUint16(b, typ), at
}

// closeAttr writes the length of the attribute that was opened at the offset. The
// length has 16 bits: the caller keeps the payload within maxAttr.
func closeAttr(b []byte, at int) []byte {
	binary.NativeEndian.PutUint16(b[at:], uint16(len(b)-at))
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// maxAttr is the largest attribute: its length is a 16-bit number.
const maxAttr = 1<<16 - 1

var errShort = errors.New("netlink message ends within an attribute")

// attrs walks over the attributes of a message or a nested attribute, in place.
type attrs struct {
	rest    []byte
	typ     uint16
	payload []byte
	err     error
}

// next moves to the next attribute; false at the end, or when err is set.
func (a *attrs) next() bool {
	if len(a.rest) == 0 || a.err != nil {
		return false
	}
	if len(a.rest) < attrHeader {
		a.err = errShort
		return false
	}
	n := int(binary.NativeEndian.Uint16(a.rest))
	if n < attrHeader || n > len(a.rest) {
		a.err = errShort
		return false
	}
	a.typ = binary.NativeEndian.Uint16(a.rest[2:]) & attrType
	a.payload = a.rest[attrHeader:n]
	a.rest = a.rest[min(padded(n), len(a.rest)):]
	return true
}

// be32 reads the payload as a 32-bit number.
func (a *attrs) be32() uint32 {
	if len(a.payload) != 4 {
		a.err = errShort
		return 0
	}
	return binary.BigEndian.Uint32(a.payload)
}

// be64 reads the payload as a 64-bit number.
func (a *attrs) be64() uint64 {
	if len(a.payload) != 8 {
		a.err = errShort
		return 0
	}
	return binary.BigEndian.Uint64(a.payload)
}

// find returns the payload of the first attribute of the type, nil where there is none.
func find(b []byte, typ uint16) []byte {
	for a := (attrs{rest: b}); a.next(); {
		if a.typ == typ {
			return a.payload
		}
	}
	return nil
}

// cString is the payload up to its final NUL.
func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
