// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
	"github.com/nftnat/nftnat/nat"
)

// Messages of sock_diag(7), and their sizes (include/uapi/linux/inet_diag.h).
const (
	diagTCP      = 18 // TCPDIAG_GETSOCK: of both families
	diagByFamily = 20
	diagDestroy  = 21 // SOCK_DESTROY

	diagMessageSize = 72
	diagIDSize      = 48
	diagAnyState    = ^uint32(0)
)

// anyFamily asks for sockets of TCP of both families at once, which takes half of the time of a dump of each.
const anyFamily = unix.AF_UNSPEC

// Operations of the filter of a dump (INET_DIAG_REQ_BYTECODE). A jump that is not taken goes on behind
// the operation, one that is taken behind the end, which refuses the socket.
const (
	diagBytecode     = 1 // the attribute
	diagSourceAtMost = 3
	diagSourceFrom   = 2
	diagPeerFrom     = 4
	diagPeerAtMost   = 5
	diagPeer         = 8
	diagOp           = 4
)

// diagFilter is a filter in the making.
type diagFilter struct {
	code []byte
	ops  []int // where the operations begin that can refuse
}

func (f *diagFilter) op(code byte, operand ...byte) {
	f.ops = append(f.ops, len(f.code))
	f.code = append(f.code, code, byte(diagOp+len(operand)), 0, 0)
	f.code = append(f.code, operand...)
}

// ports keeps sockets with a port of the range.
func (f *diagFilter) ports(first, last uint16) {
	f.op(diagSourceFrom, binary.NativeEndian.AppendUint16([]byte{0, 0}, first)...)
	f.op(diagSourceAtMost, binary.NativeEndian.AppendUint16([]byte{0, 0}, last)...)
}

// peers keeps sockets that are connected to them.
func (f *diagFilter) peers(p Peers) {
	family, bits := byte(unix.AF_INET), byte(32)
	if p.Addr.Is6() {
		family, bits = unix.AF_INET6, 128
	}
	anyPort := ^uint32(0)
	operand := append([]byte{family, bits, 0, 0}, binary.NativeEndian.AppendUint32(nil, anyPort)...)
	f.op(diagPeer, append(operand, p.Addr.AsSlice()...)...)
	f.op(diagPeerFrom, binary.NativeEndian.AppendUint16([]byte{0, 0}, p.First)...)
	f.op(diagPeerAtMost, binary.NativeEndian.AppendUint16([]byte{0, 0}, p.Last)...)
}

// bytes is the filter.
func (f *diagFilter) bytes() []byte {
	for _, at := range f.ops {
		binary.NativeEndian.PutUint16(f.code[at+2:], uint16(len(f.code)-at+diagOp))
	}
	return f.code
}

// diagSocket is a socket as the kernel tells of it.
type diagSocket struct {
	family, state byte
	id            [diagIDSize]byte
	uid, inode    uint32
}

func (s *diagSocket) addr(port, addr int) netip.AddrPort {
	b := s.id[addr:]
	a := netip.AddrFrom16([16]byte(b))
	if s.family == unix.AF_INET {
		a = netip.AddrFrom4([4]byte(b))
	}
	return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(s.id[port:]))
}

func (s *diagSocket) local() netip.AddrPort { return s.addr(0, 4) }
func (s *diagSocket) peer() netip.AddrPort  { return s.addr(2, 20) }

// cookie is that of bpf_get_socket_cookie.
func (s *diagSocket) cookie() uint64 {
	return uint64(binary.NativeEndian.Uint32(s.id[40:])) | uint64(binary.NativeEndian.Uint32(s.id[44:]))<<32
}

func decodeDiag(b []byte) (s diagSocket, ok bool) {
	if len(b) < diagMessageSize {
		return s, false
	}
	s.family, s.state = b[0], b[1]
	copy(s.id[:], b[4:])
	s.uid, s.inode = binary.NativeEndian.Uint32(b[64:]), binary.NativeEndian.Uint32(b[68:])
	return s, true
}

// diag is a socket of sock_diag.
type diag struct {
	nl    *nlwire.Socket
	proto byte
	// states are those of the sockets that are asked for.
	states uint32
	seq    uint32
	buf    []byte
}

func openDiag(ns *Namespace, proto nat.Proto) (*diag, error) {
	nl, err := nlwire.Dial(nlwire.Config{Protocol: unix.NETLINK_SOCK_DIAG, NetNS: ns.FD()})
	if err != nil {
		return nil, fmt.Errorf("ask for sockets: %w", err)
	}
	d := &diag{nl: nl, proto: unix.IPPROTO_TCP, states: diagAnyState, buf: make([]byte, nlwire.LargestDatagram)}
	if proto == nat.UDP {
		d.proto = unix.IPPROTO_UDP
	}
	return d, nil
}

func (d *diag) request(typ, flags uint16, family byte, id []byte, filter []byte) []byte {
	d.seq++
	b, at := nlwire.OpenMessage(nil, typ, flags, d.seq)
	states := binary.NativeEndian.AppendUint32(nil, d.states)
	var whole [diagIDSize]byte
	copy(whole[:], id)
	if typ == diagTCP { // struct inet_diag_req
		b = append(append(b, make([]byte, 4)...), whole[:]...)
		b = append(append(b, states...), make([]byte, 4)...)
	} else { // struct inet_diag_req_v2
		b = append(append(b, family, d.proto, 0, 0), states...)
		b = append(b, whole[:]...)
	}
	if len(filter) != 0 {
		b = nlwire.AppendAttr(b, diagBytecode, filter...)
	}
	return nlwire.CloseMessage(b, at)
}

// each calls f with the sockets of a family that a filter keeps. It is not called if the kernel has no such
// family.
func (d *diag) each(family byte, filter *diagFilter, f func(*diagSocket)) error {
	typ := uint16(diagByFamily)
	if family == anyFamily {
		typ = diagTCP
	}
	if err := d.nl.Send(d.request(typ, unix.NLM_F_DUMP, family, nil, filter.bytes())); err != nil {
		return fmt.Errorf("ask for sockets: %w", err)
	}
	for {
		n, err := d.nl.Receive(d.buf, true)
		if err != nil {
			return fmt.Errorf("read sockets: %w", err)
		}
		for ms := (nlwire.Messages{Data: d.buf[:n]}); ms.Next(); {
			m := ms.Message
			switch m.Type {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				a, err := m.Answer()
				if err == nil {
					err = a.Err()
				}
				if err != nil && !errors.Is(err, unix.ENOENT) { // no IPv6, or no module for it
					return fmt.Errorf("read sockets: %w", err)
				}
				return nil
			case typ:
				if s, ok := decodeDiag(m.Payload); ok {
					f(&s)
				}
			}
		}
	}
}

// destroy ends a socket. It is no error if there is none any more.
func (d *diag) destroy(s *diagSocket) error {
	if err := d.nl.Send(d.request(diagDestroy, unix.NLM_F_REQUEST|unix.NLM_F_ACK, s.family, s.id[:], nil)); err != nil {
		return err
	}
	for {
		n, err := d.nl.Receive(d.buf, true)
		if err != nil {
			return err
		}
		for ms := (nlwire.Messages{Data: d.buf[:n]}); ms.Next(); {
			if ms.Type != unix.NLMSG_ERROR || ms.Seq != d.seq {
				continue
			}
			a, err := ms.Answer()
			if err == nil {
				err = a.Err()
			}
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESTALE) {
				return nil
			}
			return err
		}
	}
}

// Peers are ports of an address that sockets are connected to.
type Peers struct {
	Addr        netip.Addr
	First, Last uint16
}

// DestroySockets ends the sockets of a protocol that are connected to any of the peers (none: to whatever)
// and that match, with opening only those that nobody has answered, as SOCK_DESTROY of sock_diag(7) does: what the process does with one next fails
// with ECONNABORTED. A UDP socket is unconnected then. The error is errors.ErrUnsupported if the kernel
// has no CONFIG_INET_DIAG_DESTROY.
func DestroySockets(ns *Namespace, proto nat.Proto, opening bool, peers []Peers, match func(peer netip.AddrPort, cookie uint64) bool) (n int, err error) {
	d, err := openDiag(ns, proto)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, d.nl.Close()) }()
	if len(peers) == 0 {
		peers = []Peers{{}}
	}
	var found []diagSocket
	for _, p := range peers {
		for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
			if family == unix.AF_INET && p.Addr.Is6() {
				continue
			}
			var filter diagFilter
			if p.Addr.IsValid() {
				filter.peers(p)
			}
			err := d.each(family, &filter, func(s *diagSocket) {
				if peer := s.peer(); peer.Port() != 0 && s.state != tcpTimeWait && (!opening || s.state == tcpSynSent) && match(peer, s.cookie()) {
					found = append(found, *s)
				}
			})
			if err != nil {
				return 0, err
			}
		}
	}
	for i := range found {
		if err := d.destroy(&found[i]); err != nil {
			return i, fmt.Errorf("end socket of %s: %w", found[i].peer(), err)
		}
	}
	return len(found), nil
}
