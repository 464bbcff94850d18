// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package difftest

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// event is what nftrace says of a packet at a rule, or at the end of a chain.
type event struct {
	family       uint8
	table, chain string
	kind         uint32 // NFT_TRACETYPE_*
	handle       uint64
	verdict      int32
	target       string // of a jump or goto
	policy       uint32
	// The packet, in the first event of a base chain.
	has                    bool
	ll, network, transport []byte
	iif, oif               uint32
	mark                   uint32
	protocol               uint32
	ctState, ctStatus      uint32
	ctDirection            int // negative: no connection
	id                     uint32
}

// Kinds of events (NFT_TRACETYPE_*).
const (
	tracePolicy = 1
	traceReturn = 2
	traceRule   = 3
)

func (e event) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%08x %d %s %s", e.id, e.family, e.table, e.chain)
	switch e.kind {
	case traceRule:
		fmt.Fprintf(&b, " rule %d: %d %s", e.handle, e.verdict, e.target)
	case tracePolicy:
		fmt.Fprintf(&b, " policy %d", e.policy)
	default:
		fmt.Fprintf(&b, " kind %d: %d", e.kind, e.verdict)
	}
	fmt.Fprintf(&b, " mark %#x", e.mark)
	if e.has {
		fmt.Fprintf(&b, " iif %d oif %d", e.iif, e.oif)
		if p, ok := dissect(append(slices.Clip(e.network), e.transport...)); ok {
			fmt.Fprintf(&b, " %d %s > %s flags %#x", p.proto, p.src, p.dst, p.flags)
		} else {
			fmt.Fprintf(&b, " network % x transport % x", e.network, e.transport)
		}
		if e.ctDirection >= 0 {
			fmt.Fprintf(&b, " ct state %#x status %#x dir %d", e.ctState, e.ctStatus, e.ctDirection)
		}
	}
	return b.String()
}

// tracer reads what nftrace says about marked packets of the host.
type tracer struct {
	fd     int
	buf    []byte
	broken bool // events were lost
}

// Attributes (NFTA_TRACE_*).
const (
	traceTable = iota + 1
	traceChain
	traceHandle
	traceType
	traceVerdict
	traceID
	traceLink
	traceNetwork
	traceTransport
	traceIif
	traceIiftype
	traceOif
	traceOiftype
	traceMark
	traceNfproto
	tracePolicyAttr
	tracePad
	traceCTID
	traceCTDirection
	traceCTStatus
	traceCTState
)

const groupTrace = 9

func (s *site) newTracer() *tracer {
	s.Helper()
	t := &tracer{buf: make([]byte, nlwire.LargestDatagram)}
	s.in(s.host, func() {
		var err error
		t.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
		require.NoError(s, err)
		s.Cleanup(func() { _ = unix.Close(t.fd) })
		require.NoError(s, unix.Bind(t.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (groupTrace - 1)}))
		_ = unix.SetsockoptInt(t.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	})
	return t
}

// drain returns the events since the last call.
func (t *tracer) drain() (events []event) {
	for {
		n, _, err := unix.Recvfrom(t.fd, t.buf, unix.MSG_DONTWAIT)
		if err == unix.ENOBUFS {
			t.broken = true
			continue
		}
		if err != nil {
			return events
		}
		m := nlwire.Messages{Data: t.buf[:n]}
		for m.Next() {
			events = append(events, decodeEvent(m.Message))
		}
	}
}

func decodeEvent(m nlwire.Message) event {
	e := event{family: m.Payload[0], ctDirection: -1}
	a := m.Attrs(nlwire.NetfilterHeader)
	for a.Next() {
		switch a.Type {
		case traceTable:
			e.table = unix.ByteSliceToString(a.Payload)
		case traceChain:
			e.chain = unix.ByteSliceToString(a.Payload)
		case traceHandle:
			e.handle = a.BE64()
		case traceType:
			e.kind = a.BE32()
		case traceVerdict:
			code, _ := nlwire.FindBE32(a.Payload, unix.NFTA_VERDICT_CODE)
			e.verdict = int32(code)
			e.target = nlwire.FindString(a.Payload, unix.NFTA_VERDICT_CHAIN)
		case traceID:
			e.id = a.BE32()
		case traceLink:
			e.ll, e.has = append([]byte(nil), a.Payload...), true
		case traceNetwork:
			e.network, e.has = append([]byte(nil), a.Payload...), true
		case traceTransport:
			e.transport = append([]byte(nil), a.Payload...)
		case traceIif:
			e.iif = a.BE32()
		case traceOif:
			e.oif = a.BE32()
		case traceMark:
			e.mark = a.BE32()
		case traceNfproto:
			e.protocol = a.BE32()
		case tracePolicyAttr:
			e.policy = a.BE32()
		case traceCTDirection:
			e.ctDirection = int(a.Payload[0])
		case traceCTStatus:
			e.ctStatus = binary.BigEndian.Uint32(a.Payload)
		case traceCTState:
			e.ctState = binary.BigEndian.Uint32(a.Payload)
		}
	}
	return e
}
