// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Messages of nfnetlink: struct nlmsghdr in host byte order, struct nfgenmsg with
// the address family (include/uapi/linux/netlink.h, linux/netfilter/nfnetlink.h).

const messageHeader = unix.SizeofNlMsghdr + 4 // nlmsghdr and nfgenmsg

// The types of the messages that frame a transaction have no subsystem of their own.
const (
	batchBegin = unix.NFNL_MSG_BATCH_BEGIN
	batchEnd   = unix.NFNL_MSG_BATCH_END
)

// nftType is a message type of the nf_tables subsystem.
func nftType(msg uint16) uint16 { return unix.NFNL_SUBSYS_NFTABLES<<8 | msg }

// openMessage begins a message whose attributes the caller appends.
func openMessage(b []byte, typ, flags uint16, family uint8, res uint16, seq uint32) ([]byte, int) {
	at := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = append(b, 0, 0, 0, 0) // the kernel knows the sender's port
	b = append(b, family, unix.NFNETLINK_V0)
	b = binary.BigEndian.AppendUint16(b, res)
	return b, at
}

// closeMessage writes the length of the message that was opened at the offset.
func closeMessage(b []byte, at int) []byte {
	binary.NativeEndian.PutUint32(b[at:], uint32(len(b)-at))
	return b
}

// message is one message of the kernel's answer, in place.
type message struct {
	typ, flags uint16
	seq        uint32
	payload    []byte // behind the netlink header
}

// attributes are the message's attributes, behind struct nfgenmsg.
func (m message) attributes() attrs {
	if len(m.payload) < 4 {
		return attrs{err: errShort}
	}
	return attrs{rest: m.payload[4:]}
}

// messages walks over the messages of one datagram, in place.
type messages struct {
	rest []byte
	message
	err error
}

func (m *messages) next() bool {
	if len(m.rest) == 0 || m.err != nil {
		return false
	}
	if len(m.rest) < unix.SizeofNlMsghdr {
		m.err = errShort
		return false
	}
	n := binary.NativeEndian.Uint32(m.rest)
	if n < unix.SizeofNlMsghdr || uint64(n) > uint64(len(m.rest)) {
		m.err = errShort
		return false
	}
	m.message = message{
		typ:     binary.NativeEndian.Uint16(m.rest[4:]),
		flags:   binary.NativeEndian.Uint16(m.rest[6:]),
		seq:     binary.NativeEndian.Uint32(m.rest[8:]),
		payload: m.rest[unix.SizeofNlMsghdr:n],
	}
	m.rest = m.rest[min(padded(int(n)), len(m.rest)):]
	return true
}

// answer is what an NLMSG_ERROR or NLMSG_DONE message says.
type answer struct {
	errno unix.Errno // zero: an acknowledgement
	text  string     // the kernel's own words, if any
	// offset is where in the request the bad attribute begins, counted from the
	// request's header. Zero: not told.
	offset uint32
}

func (a answer) err() error {
	if a.errno == 0 {
		return nil
	}
	if a.text != "" {
		return explained{errno: a.errno, text: a.text}
	}
	return a.errno
}

// decodeAnswer reads struct nlmsgerr and the attributes behind it
// (Documentation/userspace-api/netlink/intro.rst, "Ext ACK").
func decodeAnswer(m message) (answer, error) {
	if len(m.payload) < 4 {
		return answer{}, errShort
	}
	code := int32(binary.NativeEndian.Uint32(m.payload))
	if code > 0 || code < -4095 { // MAX_ERRNO
		return answer{}, fmt.Errorf("netlink answer carries error code %d", code)
	}
	a := answer{errno: unix.Errno(-code)}
	if m.flags&unix.NLM_F_ACK_TLVS == 0 {
		return a, nil
	}
	behind := 4
	if m.typ == unix.NLMSG_ERROR {
		behind += unix.SizeofNlMsghdr
		if m.flags&unix.NLM_F_CAPPED == 0 && len(m.payload) >= 8 {
			// The whole request is quoted; its own header says how long it is.
			behind = 4 + padded(int(binary.NativeEndian.Uint32(m.payload[4:])&0x7fffffff))
		}
	}
	if behind > len(m.payload) {
		return a, nil
	}
	for tlv := (attrs{rest: m.payload[behind:]}); tlv.next(); {
		switch tlv.typ {
		case unix.NLMSGERR_ATTR_MSG:
			a.text = cString(tlv.payload)
		case unix.NLMSGERR_ATTR_OFFS:
			if len(tlv.payload) == 4 {
				a.offset = binary.NativeEndian.Uint32(tlv.payload)
			}
		}
	}
	return a, nil
}
