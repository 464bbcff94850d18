// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package pcp

import (
	"context"
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/nftnat/nftnat/gateway/internal/lease"
	"github.com/nftnat/nftnat/nat"
)

// Opcodes of NAT-PMP (RFC 6886 section 3).
const (
	pmpAddress = 0
	pmpMapUDP  = 1
	pmpMapTCP  = 2
)

// Lengths of its messages.
const (
	pmpHeaderLen     = 8 // of an answer: version, opcode, result, epoch
	pmpAddressLen    = 2
	pmpMapLen        = 12
	pmpMapAnswerLen  = 16
	pmpInternal      = 4 // offsets in a request
	pmpExternal      = 6
	pmpLifetime      = 8
	pmpAnswerPort    = 8 // offsets in an answer
	pmpAnswerExt     = 10
	pmpAnswerExpires = 12
)

// pmp answers a request of version 0. What has the length of no request has no answer: the
// protocol has no error for it.
func (s *Server) pmp(ctx context.Context, b, q []byte, client netip.Addr) []byte {
	switch op := q[1]; {
	case op&response != 0:
		return b // MUST be ignored, section 3.5
	case op == pmpAddress:
		if len(q) != pmpAddressLen {
			return b
		}
		return s.pmpAddress(b)
	case op == pmpMapUDP || op == pmpMapTCP:
		if len(q) != pmpMapLen {
			return b
		}
		return s.pmpMap(ctx, b, q, client)
	default:
		return s.pmpUnknown(b, q)
	}
}

// pmpUnknown returns an unknown request with result code 5 (section 3.5). The epoch is written
// over what it had there, as every packet of a gateway has one (section 3.6).
func (s *Server) pmpUnknown(b, q []byte) []byte {
	at := len(b)
	b = append(b, q...)
	for len(b)-at < pmpHeaderLen {
		b = append(b, 0)
	}
	s.pmpHeader(b[at:], q[1], pmpUnsuppOpcode)
	return b
}

// pmpHeader writes the first 8 bytes of an answer.
func (s *Server) pmpHeader(a []byte, op byte, r pmpResult) {
	a[0], a[1] = pmpVersion, op|response
	binary.BigEndian.PutUint16(a[2:], uint16(r))
	binary.BigEndian.PutUint32(a[4:], s.leases.Epoch())
}

// pmpAddress answers a request for the WAN's address, and is what announcements are (sections 3.2
// and 3.2.1).
func (s *Server) pmpAddress(b []byte) []byte {
	wan, r := netip.IPv4Unspecified(), pmpNetworkFailure
	if a, ok := s.leases.Address(); ok {
		wan, r = a, pmpSuccess
	}
	at := len(b)
	b = append(b, make([]byte, pmpHeaderLen)...)
	s.pmpHeader(b[at:], pmpAddress, r)
	return append(b, wan.AsSlice()...)
}

// pmpMap answers a request for a mapping or for the end of one (sections 3.3 and 3.4).
func (s *Server) pmpMap(ctx context.Context, b, q []byte, client netip.Addr) []byte {
	internal := binary.BigEndian.Uint16(q[pmpInternal:])
	proto := nat.UDP
	if q[1] == pmpMapTCP {
		proto = nat.TCP
	}
	var external uint16
	var lifetime uint32
	var r pmpResult
	if asked := binary.BigEndian.Uint32(q[pmpLifetime:]); asked == 0 {
		r = s.pmpRelease(ctx, client, proto, internal)
	} else {
		external, lifetime, r = s.pmpGrant(ctx, lease.Request{
			Kind: lease.PMP, Client: client, Proto: proto, Internal: internal,
			External: binary.BigEndian.Uint16(q[pmpExternal:]),
			Lifetime: time.Duration(asked) * time.Second,
		})
	}
	at := len(b)
	b = append(b, make([]byte, pmpMapAnswerLen)...)
	s.pmpHeader(b[at:], q[1], r)
	binary.BigEndian.PutUint16(b[at+pmpAnswerPort:], internal)
	binary.BigEndian.PutUint16(b[at+pmpAnswerExt:], external)
	binary.BigEndian.PutUint32(b[at+pmpAnswerExpires:], lifetime)
	return b
}

// pmpGrant asks for a mapping. Port 0 of the client, which RFC 6886 gives a meaning in deletions
// only, is refused.
func (s *Server) pmpGrant(ctx context.Context, want lease.Request) (external uint16, lifetime uint32, r pmpResult) {
	if want.Internal == 0 {
		s.leases.Refuse(lease.PMP, want.Client, want.Proto.String()+" 0", "no port of the client")
		return 0, 0, pmpNotAuthorized
	}
	if _, ok := s.leases.Address(); !ok {
		s.leases.Refuse(lease.PMP, want.Client, "", lease.ErrNoAddress.Error())
		return 0, 0, pmpNetworkFailure
	}
	if reserved(want.Proto, want.External) {
		want.External = 0
	}
	l, err := s.leases.Grant(ctx, want)
	if err != nil {
		return 0, 0, pmpResultOf(err)
	}
	// A lifetime that is longer than what was asked for must not be offered (section 3.3).
	return l.External, min(seconds(&l, s.now()), uint32(want.Lifetime/time.Second)), pmpSuccess
}

// pmpRelease ends the mapping of a port, or with port 0 all of a protocol. What is not there is
// released with success (section 3.4).
func (s *Server) pmpRelease(ctx context.Context, client netip.Addr, proto nat.Proto, internal uint16) pmpResult {
	if internal == 0 {
		return pmpResultOf(s.leases.ReleaseAll(ctx, lease.PMP, client, proto))
	}
	return pmpResultOf(s.leases.Release(ctx, lease.PMP, "", client, proto, internal))
}
