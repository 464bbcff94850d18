// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"encoding/binary"
	"net/netip"
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

// payload loads bytes of the packet.
func (r *run) payload(rl *rules.Rule, x rules.Payload, cur *cursor) {
	at, ok := span(x.Dreg, x.Len)
	if !ok || x.Offset < 0 {
		r.fork(rl, cur, "an odd load of the packet's bytes")
		return
	}
	s := cur.state
	var h [3]*header
	switch x.Base {
	case unix.NFT_PAYLOAD_LL_HEADER:
		if !r.hasLink() {
			cur.broken()
			return
		}
		h = [3]*header{&s.link, &s.net, &s.th}
	case unix.NFT_PAYLOAD_NETWORK_HEADER:
		h = [3]*header{&s.net, &s.th}
	case unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		if s.net.len == 28 || s.net.len == 0 {
			cur.broken()
			return
		}
		h = [3]*header{&s.th}
	default:
		cur.what = "bytes within the packet"
		cur.regs.forget(x.Dreg, x.Len)
		r.fork(rl, cur, cur.what)
		return
	}
	g := &cur.regs
	g.forget(x.Dreg, x.Len)
	cur.what = r.payloadName(x)
	total, have := 0, 0
	for _, one := range h {
		if one == nil {
			break
		}
		for i := range int(one.len) {
			if n := total + i - x.Offset; n >= 0 && n < x.Len {
				g.val[at+n], g.known[at+n] = one.val[i], one.known[i]
				g.part[at+n] = s.part(one, i)
				have++
			}
		}
		total += int(one.len)
	}
	if have == x.Len {
		return
	}
	// Behind the headers: the packet may be shorter.
	end := x.Offset + x.Len
	switch {
	case r.base.Len > 0 && end > r.lenFrom(x.Base):
		cur.broken()
	case r.base.Len == 0:
		r.fork(rl, cur, "what is behind the packet's headers")
	}
}

// hasLink reports whether the packet has a header of the link layer.
func (r *run) hasLink() bool {
	switch h := r.hook; {
	case h == Output || h == ArpOutput:
		return false
	case h == Postrouting:
		return r.base.In.Index != 0 && linkLen(r.base.In) > 0
	case h == Egress:
		return linkLen(r.base.Out) > 0
	case h.bridge():
		return true
	}
	return linkLen(r.base.In) > 0
}

// lenFrom is how many bytes the packet has from a header on.
func (r *run) lenFrom(base uint32) int {
	n := r.base.Len
	switch base {
	case unix.NFT_PAYLOAD_LL_HEADER:
		n += 14
		if r.base.VLAN != 0 {
			n += 4
		}
	case unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		n -= 20
		if r.base.EtherType == unix.ETH_P_IPV6 {
			n -= 20
		}
	}
	return n
}

func (r *run) payloadName(x rules.Payload) string {
	switch {
	case x.Base == unix.NFT_PAYLOAD_LL_HEADER && x.Offset < 12:
		return "a MAC address"
	case x.Base == unix.NFT_PAYLOAD_NETWORK_HEADER && r.base.EtherType == unix.ETH_P_IP && x.Offset == 8,
		x.Base == unix.NFT_PAYLOAD_NETWORK_HEADER && r.base.EtherType == unix.ETH_P_IPV6 && x.Offset == 7:
		return hops.String()
	}
	return "a field of the packet"
}

// payloadSet writes bytes of the packet.
func payloadSet(x rules.Payload, cur *cursor) {
	from, ok := span(x.Sreg, x.Len)
	if !ok || x.Offset < 0 {
		return
	}
	s := cur.change()
	var h *header
	switch x.Base {
	case unix.NFT_PAYLOAD_LL_HEADER:
		h = &s.link
	case unix.NFT_PAYLOAD_NETWORK_HEADER:
		h = &s.net
	case unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		h = &s.th
	default:
		return
	}
	for i := range x.Len {
		at := x.Offset + i
		if at >= int(h.len) {
			return
		}
		if p := s.part(h, at); p.number() == clientPort && cur.regs.part[from+i] != p {
			s.client = portsKnown
		}
		s.written = s.written || cur.regs.known[from+i] != 0xff
		h.val[at], h.known[at] = cur.regs.val[from+i]&cur.regs.known[from+i], cur.regs.known[from+i]
	}
}
