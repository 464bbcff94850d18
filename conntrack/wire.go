// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// message is one netlink message; data is a view into the receive buffer.
type message struct {
	typ   uint16
	flags uint16
	seq   uint32
	data  []byte
}

func align(n int) int { return (n + nlAlign - 1) &^ (nlAlign - 1) }

// nextMessage cuts the first message off a datagram.
func nextMessage(b []byte) (m message, rest []byte, err error) {
	if len(b) < nlmsgHeaderLen {
		return message{}, nil, errMalformed
	}
	n := int(binary.NativeEndian.Uint32(b))
	if n < nlmsgHeaderLen || n > len(b) {
		return message{}, nil, errMalformed
	}
	m = message{
		typ:   binary.NativeEndian.Uint16(b[4:]),
		flags: binary.NativeEndian.Uint16(b[6:]),
		seq:   binary.NativeEndian.Uint32(b[8:]),
		data:  b[nlmsgHeaderLen:n],
	}
	// The last message of a datagram need not be padded.
	return m, b[min(align(n), len(b)):], nil
}

// nextAttr cuts the first attribute off a list of attributes.
func nextAttr(b []byte) (typ uint16, data, rest []byte, err error) {
	if len(b) < nlaHeaderLen {
		return 0, nil, nil, errMalformed
	}
	n := int(binary.NativeEndian.Uint16(b))
	if n < nlaHeaderLen || n > len(b) {
		return 0, nil, nil, errMalformed
	}
	typ = binary.NativeEndian.Uint16(b[2:]) & nlaTypeMask
	return typ, b[nlaHeaderLen:n], b[min(align(n), len(b)):], nil
}

// appendMessage begins a request: netlink header and struct nfgenmsg. The
// length is filled in by endMessage, the sequence number when it is sent.
func appendMessage(b []byte, typ, flags uint16, family uint8) []byte {
	b = append(b, 0, 0, 0, 0)
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = append(b, 0, 0, 0, 0) // sequence
	b = append(b, 0, 0, 0, 0) // port id: the kernel knows the sender
	return append(b, family, unix.NFNETLINK_V0, 0, 0)
}

// endMessage completes the message that begins at start. Attributes are padded
// as they are appended, so the length is aligned already.
func endMessage(b []byte, start int) []byte {
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

func appendAttr(b []byte, typ uint16, data ...byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(nlaHeaderLen+len(data)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, data...)
	for range align(len(data)) - len(data) {
		b = append(b, 0)
	}
	return b
}

// beginNest appends the header of an attribute that holds attributes;
// endNest, given where it began, fills in its length.
func beginNest(b []byte, typ uint16) []byte {
	return appendAttr(b, typ|nlaNested)
}

func endNest(b []byte, start int) []byte {
	binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start))
	return b
}

// setSequence numbers the message at the head of b, and asks for an
// acknowledgement or not. Errors are answered either way.
func setSequence(b []byte, seq uint32, ack bool) {
	flags := binary.NativeEndian.Uint16(b[6:]) &^ unix.NLM_F_ACK
	if ack {
		flags |= unix.NLM_F_ACK
	}
	binary.NativeEndian.PutUint16(b[6:], flags)
	binary.NativeEndian.PutUint32(b[8:], seq)
}

// ackErrno reads an NLMSG_ERROR message: zero for an acknowledgement, else what
// the kernel says is wrong.
func ackErrno(m message) (unix.Errno, error) {
	if len(m.data) < 4 {
		return 0, errMalformed
	}
	code := int32(binary.NativeEndian.Uint32(m.data))
	if code > 0 || code < -4095 { // MAX_ERRNO, include/linux/err.h
		return 0, errMalformed
	}
	return unix.Errno(-code), nil
}

// ackText finds the text of an extended acknowledgement (NLMSGERR_ATTR_MSG).
// A message that cannot be parsed has no text: the errno matters more.
func ackText(m message) string {
	if m.flags&flagAckTLVs == 0 || len(m.data) < unix.SizeofNlMsgerr {
		return ""
	}
	// After the errno comes the request: its header, and its payload unless
	// the kernel was told to cap it.
	skip := unix.SizeofNlMsgerr
	if m.flags&flagCapped == 0 {
		n := int(binary.NativeEndian.Uint32(m.data[4:]))
		if n < nlmsgHeaderLen || n > len(m.data)-4 {
			return ""
		}
		skip = min(4+align(n), len(m.data))
	}
	for b := m.data[skip:]; len(b) > 0; {
		typ, data, rest, err := nextAttr(b)
		if err != nil {
			return ""
		}
		if typ == unix.NLMSGERR_ATTR_MSG {
			return string(bytes.TrimRight(data, "\x00"))
		}
		b = rest
	}
	return ""
}
