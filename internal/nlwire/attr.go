// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nlwire

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// An attribute is a length and a type in host byte order and the payload, padded to 4 bytes
// (struct nlattr in include/uapi/linux/netlink.h).
const (
	AttrHeader = unix.SizeofNlAttr
	Nested     = unix.NLA_F_NESTED // of a type: the payload is attributes
	MaxAttr    = 1<<16 - 1         // the longest attribute
	typeMask   = 0x3fff            // NLA_TYPE_MASK
)

// ErrMalformed is the error of what netlink never sends.
var ErrMalformed = errors.New("malformed netlink message")

// Align rounds a length up to that of its padding.
func Align(n int) int { return (n + unix.NLA_ALIGNTO - 1) &^ (unix.NLA_ALIGNTO - 1) }

// OpenAttr begins an attribute whose payload the caller appends, and returns where it
// begins, for CloseAttr.
func OpenAttr(b []byte, typ uint16) ([]byte, int) {
	at := len(b)
	b = append(b, 0, 0)
	return binary.NativeEndian.AppendUint16(b, typ), at
}

// CloseAttr writes the length of the attribute that was opened at the offset. The caller
// keeps it within MaxAttr.
func CloseAttr(b []byte, at int) []byte {
	binary.NativeEndian.PutUint16(b[at:], uint16(len(b)-at))
	for len(b)%unix.NLA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// AppendAttr appends an attribute with its payload.
func AppendAttr(b []byte, typ uint16, payload ...byte) []byte {
	b, at := OpenAttr(b, typ)
	return CloseAttr(append(b, payload...), at)
}

// AppendString appends an attribute that is a NUL-terminated string.
func AppendString(b []byte, typ uint16, s string) []byte {
	b, at := OpenAttr(b, typ)
	return CloseAttr(append(append(b, s...), 0), at)
}

// AppendBE32 appends an attribute that is a number in network byte order.
func AppendBE32(b []byte, typ uint16, v uint32) []byte {
	b, at := OpenAttr(b, typ)
	return CloseAttr(binary.BigEndian.AppendUint32(b, v), at)
}

// AppendBE64 appends an attribute that is a number in network byte order.
func AppendBE64(b []byte, typ uint16, v uint64) []byte {
	b, at := OpenAttr(b, typ)
	return CloseAttr(binary.BigEndian.AppendUint64(b, v), at)
}

// CutAttr returns the first attribute of b, its type without flags, and what follows it. It
// is small enough for the compiler to inline it, which Next of Attrs is not.
func CutAttr(b []byte) (typ uint16, payload, rest []byte, err error) {
	if len(b) < AttrHeader {
		return 0, nil, nil, ErrMalformed
	}
	n := int(binary.NativeEndian.Uint16(b))
	if n < AttrHeader || n > len(b) {
		return 0, nil, nil, ErrMalformed
	}
	typ = binary.NativeEndian.Uint16(b[2:]) & typeMask
	return typ, b[AttrHeader:n], b[min(Align(n), len(b)):], nil // the last one need not be padded
}

// Attrs walks over the attributes in Data.
type Attrs struct {
	Data    []byte
	Type    uint16 // of the current attribute, without its flags
	Payload []byte // of the current attribute
	Err     error  // set if Data is cut short, or a Payload has another length than was asked for
}

// Next moves to the next attribute. It returns false at the end, and if Err is set.
func (a *Attrs) Next() bool {
	if len(a.Data) == 0 || a.Err != nil {
		return false
	}
	typ, payload, rest, err := CutAttr(a.Data)
	if err != nil {
		a.Err = err
		return false
	}
	a.Type, a.Payload, a.Data = typ, payload, rest
	return true
}

// sized reports whether the payload has n bytes. Err is set if it has not.
func (a *Attrs) sized(n int) bool {
	if len(a.Payload) != n {
		a.Err = ErrMalformed
		return false
	}
	return true
}

// BE32 reads the payload as a number in network byte order.
func (a *Attrs) BE32() uint32 {
	if !a.sized(4) {
		return 0
	}
	return binary.BigEndian.Uint32(a.Payload)
}

// BE64 reads the payload as a number in network byte order.
func (a *Attrs) BE64() uint64 {
	if !a.sized(8) {
		return 0
	}
	return binary.BigEndian.Uint64(a.Payload)
}

// FindBE32 returns the first attribute of the type as a number in network byte order, and
// whether there is one of 4 bytes.
func FindBE32(b []byte, typ uint16) (uint32, bool) {
	payload := Find(b, typ)
	if len(payload) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(payload), true
}

// FindString returns the first attribute of the type as a string, up to its NUL. Without
// one it is empty.
func FindString(b []byte, typ uint16) string { return unix.ByteSliceToString(Find(b, typ)) }

// Find returns the payload of the first attribute of the type, or nil.
func Find(b []byte, typ uint16) []byte {
	for a := (Attrs{Data: b}); a.Next(); {
		if a.Type == typ {
			return a.Payload
		}
	}
	return nil
}
