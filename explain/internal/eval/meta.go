// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

// Keys of meta, NFT_META_*, that x/sys/unix does not have.
const (
	metaSecpath  = 25
	metaIifkind  = 26
	metaOifkind  = 27
	metaBriPVID  = 28
	metaBriVProt = 29
	metaTimeNS   = 30
	metaTimeDay  = 31
	metaTimeHour = 32
	metaSdif     = 33
	metaSdifname = 34
	metaBroute   = 35
)

// meta loads something about the packet.
func (r *run) meta(_ *rules.Rule, x rules.Meta, cur *cursor) {
	g, s, d := &cur.regs, cur.state, x.Dreg
	switch x.Key {
	case unix.NFT_META_LEN:
		r.metaLen(d, cur)
	case unix.NFT_META_PROTOCOL:
		g.store(d, byte(r.base.EtherType>>8), byte(r.base.EtherType))
	case unix.NFT_META_PRIORITY:
		if s.priorityUnknown {
			cur.what = "the packet's priority"
			g.forget(d, 4)
			return
		}
		g.store32(d, s.priority)
	case unix.NFT_META_MARK:
		if s.markUnknown {
			cur.what = "the packet's mark"
			g.forget(d, 4)
			return
		}
		g.store32(d, s.mark)
	case unix.NFT_META_IIF:
		g.store32(d, uint32(r.base.In.Index))
	case unix.NFT_META_OIF:
		g.store32(d, uint32(r.base.Out.Index))
	case unix.NFT_META_IIFNAME:
		storeName(g, d, r.base.In.Name)
	case unix.NFT_META_OIFNAME:
		storeName(g, d, r.base.Out.Name)
	case unix.NFT_META_IIFTYPE:
		r.metaLink(x, r.base.In, cur)
	case unix.NFT_META_OIFTYPE:
		r.metaLink(x, r.base.Out, cur)
	case unix.NFT_META_IIFGROUP, metaIifkind, unix.NFT_META_BRI_IIFNAME:
		r.metaLink(x, r.base.In, cur)
	case unix.NFT_META_OIFGROUP, metaOifkind, unix.NFT_META_BRI_OIFNAME:
		r.metaLink(x, r.base.Out, cur)
	case unix.NFT_META_SKUID, unix.NFT_META_SKGID:
		r.metaOwner(x, cur)
	case unix.NFT_META_NFPROTO:
		g.store(d, byte(r.hookFamily()))
	case unix.NFT_META_L4PROTO:
		if s.th.len == 0 && r.base.EtherType != unix.ETH_P_IP && r.base.EtherType != unix.ETH_P_IPV6 {
			cur.broken()
			return
		}
		g.store(d, r.base.Proto)
	case unix.NFT_META_PKTTYPE:
		g.store(d, s.pktType)
	case metaSecpath, metaSdif:
		g.store32(d, 0)
	case metaSdifname:
		storeName(g, d, "")
	case metaTimeNS:
		g.store(d, binary.NativeEndian.AppendUint64(nil, uint64(r.now.UnixNano()))...)
	case metaTimeDay:
		g.store(d, byte(r.now.UTC().Weekday()))
	case metaTimeHour:
		t := r.now.UTC()
		g.store32(d, uint32(t.Sub(t.Truncate(24*time.Hour)).Seconds()))
	case unix.NFT_META_CGROUP:
		if !r.base.Local {
			cur.broken()
			return
		}
		cur.what = "the control group of the process"
		g.forget(d, 4)
	case unix.NFT_META_RTCLASSID:
		if r.hook == Ingress || r.hook == Prerouting {
			cur.broken() // there is no route yet
			return
		}
		cur.what = "the realm of the route"
		g.forget(d, 4)
	case unix.NFT_META_CPU:
		cur.what = "the CPU that has the packet"
		g.forget(d, 4)
	case unix.NFT_META_PRANDOM:
		cur.what = "a random number"
		g.forget(d, 4)
	default:
		cur.what = "something about the packet that is not read"
		g.forget(d, 16)
	}
}

func storeName(g *regs, d rules.Register, name string) {
	var b [unix.IFNAMSIZ]byte
	copy(b[:], name)
	g.store(d, b[:]...)
}

func (r *run) metaLen(d rules.Register, cur *cursor) {
	n := r.base.Len
	if n == 0 {
		cur.what = packetLen.String()
		cur.regs.store32below(d, 1<<17)
		if at, ok := span(d, 4); ok && r.hook != Egress {
			binary.NativeEndian.PutUint32(cur.regs.known[at:], ^uint32(0xffff))
			if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
				cur.regs.part[at+2], cur.regs.part[at+3] = packetLen.high(), packetLen.low()
			} else {
				cur.regs.part[at], cur.regs.part[at+1] = packetLen.low(), packetLen.high()
			}
		}
		return
	}
	if r.hook == Egress {
		n += linkLen(r.base.Out)
	}
	cur.regs.store32(d, uint32(n))
}

// linkLen is the length of the header of the link layer, of which the packets are that come by an
// interface.
func linkLen(i Interface) int {
	switch i.Type {
	case unix.ARPHRD_ETHER, unix.ARPHRD_LOOPBACK, 0:
		return 14
	}
	return 0
}

// metaLink loads something about an interface; without one the rule breaks off.
func (r *run) metaLink(x rules.Meta, i Interface, cur *cursor) {
	if i.Index == 0 && i.Name == "" {
		cur.broken()
		return
	}
	switch x.Key {
	case unix.NFT_META_IIFTYPE, unix.NFT_META_OIFTYPE:
		cur.regs.store(x.Dreg, binary.NativeEndian.AppendUint16(nil, i.Type)...)
	case unix.NFT_META_IIFGROUP, unix.NFT_META_OIFGROUP:
		cur.regs.store32(x.Dreg, i.Group)
	case metaIifkind, metaOifkind:
		if i.Kind == "" {
			cur.broken()
			return
		}
		storeName(&cur.regs, x.Dreg, i.Kind)
	default:
		if i.Bridge == "" {
			cur.broken()
			return
		}
		storeName(&cur.regs, x.Dreg, i.Bridge)
	}
}

func (r *run) metaOwner(x rules.Meta, cur *cursor) {
	id := r.base.UID
	if x.Key == unix.NFT_META_SKGID {
		id = r.base.GID
	}
	switch {
	case !r.base.Local, r.base.Kernel:
		cur.broken()
	case r.base.OwnerKnown:
		cur.regs.store32(x.Dreg, id)
	default:
		cur.what = "the user of the process"
		cur.regs.forget(x.Dreg, 4)
	}
}

// hookFamily is the family of the hook that a rule sees the packet at.
func (r *run) hookFamily() rules.Family { return r.family }

func (r *run) metaSet(x rules.Meta, cur *cursor) {
	switch x.Key {
	case unix.NFT_META_MARK:
		b, ok := cur.regs.get(x.Sreg, 4)
		s := cur.change()
		s.mark, s.markUnknown = 0, !ok
		if ok {
			s.mark = binary.NativeEndian.Uint32(b)
		}
	case unix.NFT_META_PRIORITY:
		b, ok := cur.regs.get(x.Sreg, 4)
		s := cur.change()
		s.priority, s.priorityUnknown = 0, !ok
		if ok {
			s.priority = binary.NativeEndian.Uint32(b)
		}
	case unix.NFT_META_PKTTYPE:
		const loopback = 5 // PACKET_LOOPBACK; only types below PACKET_OTHERHOST+1 are changed
		if b, ok := cur.regs.get(x.Sreg, 1); ok && b[0] <= 3 && cur.state.pktType <= 3 && b[0] < loopback {
			cur.change().pktType = b[0]
		}
	case metaBroute:
		if b, ok := cur.regs.get(x.Sreg, 1); ok && b[0] == 0 {
			return
		}
		cur.end(codeStolen)
	}
}
