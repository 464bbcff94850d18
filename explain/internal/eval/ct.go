// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

// ct loads something of the connection.
func (r *run) ct(_ *rules.Rule, x rules.CT, cur *cursor) {
	g, d := &cur.regs, x.Dreg
	s := cur.state
	if !s.ct.Seen && !s.ct.Untracked && r.family == unix.NFPROTO_BRIDGE &&
		(r.hook != BridgePrerouting || r.priority > conntrackPriority) {
		s = r.track(s) // a rule that asks makes bridges track
	}
	if x.Key == unix.NFT_CT_STATE {
		g.store32(d, s.ctState())
		return
	}
	if !s.tracked() {
		cur.broken()
		return
	}
	c := &s.ct
	switch x.Key {
	case unix.NFT_CT_DIRECTION:
		g.store(d, b2u(c.Reply))
	case unix.NFT_CT_STATUS:
		g.store32(d, c.Status)
	case unix.NFT_CT_MARK:
		if c.MarkUnknown {
			cur.what = "the mark of the connection"
			g.forget(d, 4)
			return
		}
		g.store32(d, c.Mark)
	case unix.NFT_CT_HELPER:
		if c.State != Related {
			cur.broken() // it is that of the connection that expected this one
			return
		}
		cur.what = "the helper of the connection"
		g.forget(d, 16)
	case unix.NFT_CT_LABELS:
		if c.State == New && !s.labels {
			g.store(d, make([]byte, 16)...)
			return
		}
		cur.what = "the labels of the connection"
		g.forget(d, 16)
	case unix.NFT_CT_BYTES, unix.NFT_CT_PKTS, unix.NFT_CT_AVGPKT:
		r.ctCount(x, c, cur)
	case unix.NFT_CT_L3PROTOCOL:
		if r.base.EtherType == unix.ETH_P_IPV6 {
			g.store(d, unix.NFPROTO_IPV6)
			return
		}
		g.store(d, unix.NFPROTO_IPV4)
	case unix.NFT_CT_PROTOCOL:
		g.store(d, r.base.Proto)
	case unix.NFT_CT_ZONE:
		zone := c.Zone
		if x.Direction >= 0 {
			zone = zoneOf(c.Zone, c.ZoneDirs, x.Direction == 1)
		}
		g.store(d, binary.NativeEndian.AppendUint16(nil, zone)...)
	case unix.NFT_CT_SRC, unix.NFT_CT_DST, unix.NFT_CT_SRC_IP, unix.NFT_CT_DST_IP, unix.NFT_CT_SRC_IP6, unix.NFT_CT_DST_IP6,
		unix.NFT_CT_PROTO_SRC, unix.NFT_CT_PROTO_DST:
		r.ctTuple(x, c, cur)
	default:
		cur.what = "something of the connection"
		g.forget(d, 4)
	}
}

func b2u(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// ctState is the bit of `ct state`.
func (s *state) ctState() uint32 {
	const untracked = 1 << 6
	switch {
	case s.ct.Untracked:
		return untracked
	case !s.ct.Seen:
		return Invalid
	}
	return s.ct.State
}

func (r *run) ctTuple(x rules.CT, c *Conn, cur *cursor) {
	t := c.Original
	if x.Direction == 1 {
		t = c.Answer
	}
	four := r.base.EtherType == unix.ETH_P_IP
	addr, port := netip.Addr{}, uint16(0)
	switch x.Key {
	case unix.NFT_CT_SRC:
		addr = t.Src
	case unix.NFT_CT_DST:
		addr = t.Dst
	case unix.NFT_CT_SRC_IP, unix.NFT_CT_DST_IP:
		if !four {
			cur.broken()
			return
		}
		if addr = t.Src; x.Key == unix.NFT_CT_DST_IP {
			addr = t.Dst
		}
	case unix.NFT_CT_SRC_IP6, unix.NFT_CT_DST_IP6:
		if four {
			cur.broken()
			return
		}
		if addr = t.Src; x.Key == unix.NFT_CT_DST_IP6 {
			addr = t.Dst
		}
	case unix.NFT_CT_PROTO_SRC, unix.NFT_CT_PROTO_DST:
		if port = t.SrcPort; x.Key == unix.NFT_CT_PROTO_DST {
			port = t.DstPort
		}
		switch {
		case port != 0:
			cur.regs.store(x.Dreg, byte(port>>8), byte(port))
		case hasPorts(r.base.Proto):
			cur.regs.storeNumber(x.Dreg, clientPort)
		default:
			cur.what = "the number of the ICMP connection"
			cur.regs.forget(x.Dreg, 2)
		}
		return
	}
	if !addr.IsValid() {
		cur.what = "an address of the connection"
		n := 16
		if four {
			n = 4
		}
		cur.regs.forget(x.Dreg, n)
		return
	}
	cur.regs.store(x.Dreg, addr.AsSlice()...)
}

// ctCount loads how much has passed: of the first packet and the first answer it is known.
func (r *run) ctCount(x rules.CT, c *Conn, cur *cursor) {
	first := c.State == New && !c.Reply
	if first && x.Key == unix.NFT_CT_PKTS {
		n := uint64(1)
		if x.Direction == 1 {
			n = 0
		}
		cur.regs.store(x.Dreg, binary.NativeEndian.AppendUint64(nil, n)...)
		return
	}
	if first && x.Direction == 1 {
		cur.regs.store(x.Dreg, make([]byte, 8)...)
		return
	}
	if first && r.base.Len > 0 {
		cur.regs.store(x.Dreg, binary.NativeEndian.AppendUint64(nil, uint64(r.base.Len))...)
		return
	}
	cur.what = "how much has passed by the connection"
	cur.regs.forget(x.Dreg, 8)
	// The connection is young: three packets at most.
	if at, ok := span(x.Dreg, 8); ok {
		binary.NativeEndian.PutUint64(cur.regs.known[at:], ^uint64(1<<18-1))
		if x.Key == unix.NFT_CT_PKTS {
			binary.NativeEndian.PutUint64(cur.regs.known[at:], ^uint64(3))
		}
	}
}

func (r *run) ctSet(x rules.CT, cur *cursor) {
	switch x.Key {
	case unix.NFT_CT_MARK:
		if !cur.state.tracked() {
			return
		}
		b, ok := cur.regs.get(x.Sreg, 4)
		c := &cur.change().ct
		c.Mark, c.MarkUnknown = 0, !ok
		if ok {
			c.Mark = binary.NativeEndian.Uint32(b)
		}
	case unix.NFT_CT_LABELS:
		if cur.state.tracked() {
			cur.change().labels = true
		}
	case unix.NFT_CT_ZONE:
		if cur.state.ct.Seen || cur.state.ct.Untracked {
			return
		}
		if b, ok := cur.regs.get(x.Sreg, 2); ok {
			s := cur.change()
			s.zone, s.zoneDirs = binary.NativeEndian.Uint16(b), 0
			if x.Direction >= 0 {
				s.zoneDirs = 1 << (x.Direction & 1)
			}
		}
	}
}
