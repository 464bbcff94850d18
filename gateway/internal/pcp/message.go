// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package pcp

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// The first byte of a message.
const (
	pmpVersion = 0 // NAT-PMP
	pcpVersion = 2 // PCP
)

// Opcodes of PCP (RFC 6887 section 19.2).
const (
	opAnnounce = 0
	opMap      = 1
)

const (
	response = 0x80 // the bit R of the second byte

	maxMessage = 1100 // bytes of a message of PCP, section 7
	headerLen  = 24
	mapLen     = 36 // of what MAP has after the header
	minMessage = 2  // what is shorter has no answer, section 8.2

	// Offsets in a header.
	atResult   = 3
	atLifetime = 4
	atEpoch    = 8 // answers
	atClient   = 8 // requests
	atReserved = 12

	// Offsets in what MAP has after the header.
	atNonce     = 0
	nonceLen    = 12
	atProto     = 12
	atInternal  = 16
	atExternal  = 18
	atSuggested = 20
)

// appendError appends an answer that is the request with another header (section 8.2).
func appendError(b, q []byte, r result, lifetime time.Duration, epoch uint32) []byte {
	at := len(b)
	b = append(b, q[:min(len(q), maxMessage)]...)
	for len(b)-at < headerLen || (len(b)-at)%4 != 0 {
		b = append(b, 0)
	}
	putHeader(b[at:], r, lifetime, epoch)
	return b
}

// putHeader makes the header of a request that of its answer.
func putHeader(a []byte, r result, lifetime time.Duration, epoch uint32) {
	a[0] = pcpVersion
	a[1] |= response
	a[2] = 0
	a[atResult] = byte(r)
	binary.BigEndian.PutUint32(a[atLifetime:], uint32(lifetime/time.Second))
	binary.BigEndian.PutUint32(a[atEpoch:], epoch)
	if !results[r].unparsed {
		clear(a[atReserved:headerLen])
	}
}

// mapRequest is a request of opcode MAP (section 11.1).
type mapRequest struct {
	raw       []byte // the request
	client    netip.Addr
	lifetime  time.Duration
	nonce     [nonceLen]byte
	proto     byte // as in the request: any
	internal  uint16
	external  uint16
	suggested netip.Addr
	options   options
}

// parseMap reads what follows the header. The caller has checked the length.
func parseMap(q []byte, client netip.Addr) mapRequest {
	m := q[headerLen:]
	return mapRequest{
		raw:       q,
		client:    client,
		lifetime:  time.Duration(binary.BigEndian.Uint32(q[atLifetime:])) * time.Second,
		nonce:     [nonceLen]byte(m[atNonce:]),
		proto:     m[atProto],
		internal:  binary.BigEndian.Uint16(m[atInternal:]),
		external:  binary.BigEndian.Uint16(m[atExternal:]),
		suggested: address(m[atSuggested:]),
	}
}

// address reads the 16 bytes of an address, of which an IPv4 one is IPv4-mapped (section 5).
func address(b []byte) netip.Addr { return netip.AddrFrom16([16]byte(b)).Unmap() }

// appendAddress is the reverse of address.
func appendAddress(b []byte, a netip.Addr) []byte {
	raw := a.As16()
	return append(b, raw[:]...)
}

// appendMap appends an answer of success.
func appendMap(b []byte, m *mapRequest, external netip.AddrPort, lifetime time.Duration, epoch uint32, options []byte) []byte {
	at := len(b)
	b = append(b, make([]byte, headerLen)...)
	b[at+1] = opMap
	putHeader(b[at:], success, lifetime, epoch)
	b = append(b, m.nonce[:]...)
	b = append(b, m.proto, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, m.internal)
	b = binary.BigEndian.AppendUint16(b, external.Port())
	b = appendAddress(b, external.Addr())
	return append(b, options...)
}

// appendAnnounce appends an answer to ANNOUNCE, which is what announcements are too (section 14.1).
func appendAnnounce(b []byte, epoch uint32) []byte {
	at := len(b)
	b = append(b, make([]byte, headerLen)...)
	b[at+1] = opAnnounce
	putHeader(b[at:], success, 0, epoch)
	return b
}
