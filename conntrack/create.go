// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io/fs"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Connection is a TCP connection that a host has had since before it was tracked.
type Connection struct {
	// Client and Server are its ends, as packets have them. Those of the client are of the original
	// direction.
	Client, Server netip.AddrPort
	// State is how far it is.
	State TCPState
}

// TCPState is a state of a connection: enum tcp_conntrack in
// include/uapi/linux/netfilter/nf_conntrack_tcp.h, as far as it is of use for [Conn.Create].
type TCPState uint8

// States.
const (
	TCPSynRecv     TCPState = 2 // the server has answered the client's SYN
	TCPEstablished TCPState = 3
	TCPFinWait     TCPState = 4 // an end has sent its FIN
)

// String returns the name that conntrack(8) prints.
func (s TCPState) String() string {
	switch s {
	case TCPSynRecv:
		return "SYN_RECV"
	case TCPEstablished:
		return "ESTABLISHED"
	case TCPFinWait:
		return "FIN_WAIT"
	}
	return strconv.Itoa(int(s))
}

// timeout is the kernel's default, as long as no packet comes: from then on it is the kernel's setting
// (net.netfilter.nf_conntrack_tcp_timeout_*).
func (s TCPState) timeout() time.Duration {
	switch s {
	case TCPSynRecv:
		return time.Minute
	case TCPFinWait:
		return 2 * time.Minute
	case TCPEstablished:
	}
	return 5 * 24 * time.Hour
}

// Create adds entries of connections that have none, in the default zone, and returns how many.
// They are as if the host had tracked the connections from the beginning, and no rule had
// translated them: packets of a connection that the kernel comes to know in its midst
// (net.netfilter.nf_conntrack_tcp_loose) meet the rules of NAT as its first ones, and with an entry they
// do not. Their sequence numbers are not checked. An entry that there is already stays as it is.
//
// If the table is full, the error matches unix.ENOMEM, and some entries are missing.
func (c *Conn) Create(connections []Connection) (created int, err error) {
	const op = "create flows"
	for _, of := range connections {
		if err := of.check(); err != nil {
			return 0, &OpError{Op: op, Object: of.String(), Err: err}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	q := requests{conn: c, redundant: unix.EEXIST}
	for _, of := range connections {
		q.buf = appendCreate(q.buf, of)
		err = cmp.Or(err, q.queued()) // the others may succeed
	}
	if err = cmp.Or(err, q.flush()); err != nil {
		return q.made, c.opError(op, "", explain(err))
	}
	return q.made, nil
}

// String returns "tcp 192.0.2.9:4000->192.0.2.1:80 ESTABLISHED".
func (c Connection) String() string {
	return protoName(unix.IPPROTO_TCP) + " " + c.Client.String() + "->" + c.Server.String() + " " + c.State.String()
}

func (c *Connection) check() error {
	client, server := c.Client.Addr(), c.Server.Addr()
	switch {
	case !client.IsValid() || !server.IsValid() || client.Is4() != server.Is4() || client.Is4In6() || server.Is4In6():
		return fmt.Errorf("not two addresses of a family: %w", fs.ErrInvalid)
	case client.Zone() != "" || server.Zone() != "":
		return fmt.Errorf("address with a zone: %w", fs.ErrInvalid)
	case c.State != TCPSynRecv && c.State != TCPEstablished && c.State != TCPFinWait:
		return fmt.Errorf("unknown state: %w", fs.ErrInvalid)
	}
	return nil
}

// liberal has the sequence numbers of a direction not checked: a flag (IP_CT_TCP_FLAG_BE_LIBERAL) and the mask of
// those that are set.
const liberal = 0x08

// appendCreate appends the request to create an entry, and to do nothing if there is one (NLM_F_EXCL).
// With the status that packets went both ways, the kernel takes none for a first one (resolve_normal_ct), so that
// no rule of NAT sees it.
func appendCreate(b []byte, c Connection) []byte {
	family := uint8(unix.AF_INET)
	if c.Client.Addr().Is6() {
		family = unix.AF_INET6
	}
	b, at := request(b, msgNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL, family)
	b = appendTCPTuple(b, ctaTupleOrig, c.Client, c.Server)
	b = appendTCPTuple(b, ctaTupleReply, c.Server, c.Client)
	b = appendAttr(b, ctaStatus, binary.BigEndian.AppendUint32(nil, uint32(StatusConfirmed|StatusSeenReply|StatusAssured))...)
	b = appendAttr(b, ctaTimeout, binary.BigEndian.AppendUint32(nil, uint32(c.State.timeout()/time.Second))...)
	b, info := openAttr(b, nlwire.Nested|ctaProtoInfo)
	b, tcp := openAttr(b, nlwire.Nested|ctaProtoInfoTCP)
	b = appendAttr(b, ctaTCPState, uint8(c.State))
	b = appendAttr(b, ctaTCPFlagsOrig, liberal, liberal)
	b = appendAttr(b, ctaTCPFlagsReply, liberal, liberal)
	b = closeAttr(closeAttr(b, tcp), info)
	return nlwire.CloseMessage(b, at)
}

// appendTCPTuple appends one direction of a connection.
func appendTCPTuple(b []byte, typ uint16, src, dst netip.AddrPort) []byte {
	ipSrc, ipDst := uint16(ctaIPv4Src), uint16(ctaIPv4Dst)
	if src.Addr().Is6() {
		ipSrc, ipDst = ctaIPv6Src, ctaIPv6Dst
	}
	b, tuple := openAttr(b, nlwire.Nested|typ)
	b, ip := openAttr(b, nlwire.Nested|ctaTupleIP)
	b = appendAttr(b, ipSrc, src.Addr().AsSlice()...)
	b = appendAttr(b, ipDst, dst.Addr().AsSlice()...)
	b = closeAttr(b, ip)
	b, proto := openAttr(b, nlwire.Nested|ctaTupleProto)
	b = appendAttr(b, ctaProtoNum, unix.IPPROTO_TCP)
	b = appendAttr(b, ctaProtoSrcPort, binary.BigEndian.AppendUint16(nil, src.Port())...)
	b = appendAttr(b, ctaProtoDstPort, binary.BigEndian.AppendUint16(nil, dst.Port())...)
	return closeAttr(closeAttr(b, proto), tuple)
}

// These are those of nlwire, which is small enough that each call of them would be replaced by its body.

//go:noinline
func appendAttr(b []byte, typ uint16, payload ...byte) []byte {
	return nlwire.AppendAttr(b, typ, payload...)
}

//go:noinline
func openAttr(b []byte, typ uint16) ([]byte, int) { return nlwire.OpenAttr(b, typ) }

//go:noinline
func closeAttr(b []byte, at int) []byte { return nlwire.CloseAttr(b, at) }
