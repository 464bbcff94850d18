// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/icmp"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
)

// icmpError is an ICMP error as a machine received it, with the addresses of the packet that
// it is about.
type icmpError struct {
	from       netip.Addr
	kind, code int
	mtu        int // of the next hop, if the error is about the size
	proto      int
	src, dst   netip.AddrPort // of the packet
}

// The errors, as type and code of either family (RFC 792, RFC 1191, RFC 4443).
type errorKind struct{ kind4, code4, kind6, code6 int }

var (
	portUnreachable = errorKind{3, 3, 1, 4}
	prohibited      = errorKind{3, 13, 1, 1}
	tooBig          = errorKind{3, 4, 2, 0}
	timeExceeded    = errorKind{11, 0, 3, 0}
)

func (k errorKind) of(a netip.Addr) (kind, code int) {
	if a.Is4() {
		return k.kind4, k.code4
	}
	return k.kind6, k.code6
}

// icmpListener reads all ICMP of one family that reaches a machine.
type icmpListener struct {
	conn *icmp.PacketConn
	is4  bool
}

func listenICMP(t *testing.T, ns *lab.NS, f family) *icmpListener {
	t.Helper()
	l := &icmpListener{is4: f.bits == 32}
	network := "ip6:ipv6-icmp"
	if l.is4 {
		network = "ip4:icmp"
	}
	require.NoError(t, ns.Do(func() (err error) {
		l.conn, err = icmp.ListenPacket(network, f.wildcard.String())
		return err
	}))
	t.Cleanup(func() { _ = l.conn.Close() })
	return l
}

// next waits for the next error that is about a packet from or to the given port.
func (l *icmpListener) next(t *testing.T, port uint16) icmpError {
	t.Helper()
	require.NoError(t, l.conn.SetReadDeadline(time.Now().Add(answerTimeout)))
	buf := make([]byte, 2048)
	for {
		n, from, err := l.conn.ReadFrom(buf)
		require.NoError(t, err, "no ICMP error")
		e, ok := l.parse(buf[:n])
		if !ok || e.src.Port() != port && e.dst.Port() != port {
			continue // echoes and neighbour discovery, and errors of other tests
		}
		e.from = mustAddr(from.String())
		return e
	}
}

// parse reads a message from its first byte: type, code, checksum and four bytes more,
// then the packet. Options and extension headers do not occur here.
func (l *icmpListener) parse(b []byte) (icmpError, bool) {
	const header = 8
	size, source, length, nextHeader := 20, 12, 4, 9
	if !l.is4 {
		size, source, length, nextHeader = 40, 8, 16, 6
	}
	if len(b) < header+size+4 || !l.is4 && b[0] > 127 {
		return icmpError{}, false
	}
	e := icmpError{kind: int(b[0]), code: int(b[1])}
	packet := b[header:]
	ports := packet[size:]
	src, _ := netip.AddrFromSlice(packet[source:][:length])
	dst, _ := netip.AddrFromSlice(packet[source+length:][:length])
	e.proto = int(packet[nextHeader])
	e.src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(ports))
	e.dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(ports[2:]))
	switch {
	case l.is4 && e.kind == tooBig.kind4 && e.code == tooBig.code4:
		e.mtu = int(binary.BigEndian.Uint16(b[6:]))
	case !l.is4 && e.kind == tooBig.kind6:
		e.mtu = int(binary.BigEndian.Uint32(b[4:]))
	}
	return e, true
}

func protoNumber(network string) int {
	if network == "udp" {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}
