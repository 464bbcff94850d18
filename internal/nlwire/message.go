// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nlwire

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// The headers of a message (struct nlmsghdr, in host byte order), and of nfnetlink behind
// it (struct nfgenmsg in include/uapi/linux/netfilter/nfnetlink.h).
const (
	MessageHeader   = unix.SizeofNlMsghdr
	NetfilterHeader = 4
)

// OpenMessage begins a request whose payload the caller appends, and returns where it
// begins, for CloseMessage.
func OpenMessage(b []byte, typ, flags uint16, seq uint32) ([]byte, int) {
	at := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	return append(b, 0, 0, 0, 0), at // the kernel knows the sender's port
}

// OpenNetfilter is OpenMessage with the header of nfnetlink.
func OpenNetfilter(b []byte, typ, flags uint16, family uint8, res uint16, seq uint32) ([]byte, int) {
	b, at := OpenMessage(b, typ, flags, seq)
	b = append(b, family, unix.NFNETLINK_V0)
	return binary.BigEndian.AppendUint16(b, res), at
}

// CloseMessage writes the length of the message that was opened at the offset.
func CloseMessage(b []byte, at int) []byte {
	binary.NativeEndian.PutUint32(b[at:], uint32(len(b)-at))
	return b
}

// Message is one message of a datagram.
type Message struct {
	Type, Flags uint16
	Seq         uint32
	Payload     []byte
}

// Attrs returns the attributes behind a header of so many bytes.
func (m Message) Attrs(header int) Attrs {
	if len(m.Payload) < header {
		return Attrs{Err: ErrMalformed}
	}
	return Attrs{Data: m.Payload[header:]}
}

// Messages walks over the messages in Data.
type Messages struct {
	Data []byte
	Message
	Err error
}

// Next moves to the next message. It returns false at the end, and if Err is set.
func (m *Messages) Next() bool {
	if len(m.Data) == 0 || m.Err != nil {
		return false
	}
	if len(m.Data) < MessageHeader {
		m.Err = ErrMalformed
		return false
	}
	n := binary.NativeEndian.Uint32(m.Data)
	if n < MessageHeader || uint64(n) > uint64(len(m.Data)) {
		m.Err = ErrMalformed
		return false
	}
	m.Message = Message{
		Type:    binary.NativeEndian.Uint16(m.Data[4:]),
		Flags:   binary.NativeEndian.Uint16(m.Data[6:]),
		Seq:     binary.NativeEndian.Uint32(m.Data[8:]),
		Payload: m.Data[MessageHeader:n],
	}
	m.Data = m.Data[min(Align(int(n)), len(m.Data)):]
	return true
}

// Answer is the content of an NLMSG_ERROR or NLMSG_DONE message.
type Answer struct {
	Errno unix.Errno // zero: an acknowledgement
	Text  string     // the kernel's explanation; empty: none
	// Offset is that of the attribute at fault, from the begin of the request. Zero: not
	// known.
	Offset uint32
}

// Err returns the error of the answer, which is its Errno: nil, the number, or the number
// with the text.
func (a Answer) Err() error {
	switch {
	case a.Errno == 0:
		return nil
	case a.Text == "":
		return a.Errno
	}
	return explained{a.Errno, a.Text}
}

type explained struct {
	errno unix.Errno
	text  string
}

func (e explained) Error() string { return fmt.Sprintf("%v (%s)", e.errno, e.text) }

func (e explained) Unwrap() error { return e.errno }

// Answer reads struct nlmsgerr and the attributes behind it
// (Documentation/userspace-api/netlink/intro.rst, "Ext ACK"). Attributes that cannot be read
// are left out.
func (m Message) Answer() (Answer, error) {
	if len(m.Payload) < 4 {
		return Answer{}, ErrMalformed
	}
	code := int32(binary.NativeEndian.Uint32(m.Payload))
	if code > 0 || code < -4095 { // MAX_ERRNO in include/linux/err.h
		return Answer{}, fmt.Errorf("%w: error code %d", ErrMalformed, code)
	}
	a := Answer{Errno: unix.Errno(-code)}
	if m.Flags&unix.NLM_F_ACK_TLVS == 0 {
		return a, nil
	}
	behind := 4
	if m.Type == unix.NLMSG_ERROR {
		behind += MessageHeader
		if m.Flags&unix.NLM_F_CAPPED == 0 && len(m.Payload) >= 8 {
			// The whole request is quoted; its own header says how long it is.
			behind = 4 + Align(int(binary.NativeEndian.Uint32(m.Payload[4:])&0x7fffffff))
		}
	}
	if behind > len(m.Payload) {
		return a, nil
	}
	for tlv := (Attrs{Data: m.Payload[behind:]}); tlv.Next(); {
		switch tlv.Type {
		case unix.NLMSGERR_ATTR_MSG:
			a.Text = unix.ByteSliceToString(tlv.Payload)
		case unix.NLMSGERR_ATTR_OFFS:
			if len(tlv.Payload) == 4 {
				a.Offset = binary.NativeEndian.Uint32(tlv.Payload)
			}
		}
	}
	return a, nil
}
