// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

// maxTranslations is how many results of one nat rule are followed.
const maxTranslations = 16

// natRule translates, and accepts.
func (r *run) natRule(rl *rules.Rule, x rules.Nat, cur *cursor) {
	source := x.Type == unix.NFT_NAT_SNAT
	n := 4
	if r.base.EtherType == unix.ETH_P_IPV6 {
		n = 16
	}
	from, to := netip.Addr{}, netip.Addr{}
	if x.AddrMin != 0 {
		ok1, ok2 := false, true
		from, ok1 = r.addr(cur, x.AddrMin, n)
		to = from
		if x.AddrMax != 0 {
			to, ok2 = r.addr(cur, x.AddrMax, n)
		}
		if !ok1 || !ok2 {
			r.translatesUnknown(rl, cur)
			return
		}
	}
	ports := PortRange{}
	if x.PortMin != 0 {
		var ok bool
		if ports, ok = portRange(cur, x.PortMin, x.PortMax); !ok {
			r.translatesUnknown(rl, cur)
			return
		}
	}
	r.natTo(rl, cur, source, from, to, ports, x.Flags)
}

// natTo translates to one of a range of addresses, or to the same one if the range is not valid.
func (r *run) natTo(rl *rules.Rule, cur *cursor, source bool, from, to netip.Addr, ports PortRange, flags uint32) {
	addrs := []netip.Addr{{}}
	if from.IsValid() {
		if flags&unix.NF_NAT_RANGE_NETMAP != 0 {
			from = netmap(from, to, r.address(cur.state, source))
			to = from
		}
		if addrs = addrRange(from, to); addrs == nil {
			r.translatesUnknown(rl, cur)
			return
		}
	}
	r.translateTo(rl, cur, source, addrs, ports, flags)
}

// address is the one that a nat rule would change.
func (r *run) address(s *state, source bool) netip.Addr {
	if source {
		return s.ct.Answer.Dst
	}
	return s.ct.Answer.Src
}

func (r *run) addr(cur *cursor, reg rules.Register, n int) (netip.Addr, bool) {
	b, ok := cur.regs.get(reg, n)
	if !ok {
		return netip.Addr{}, false
	}
	return netip.AddrFromSlice(b)
}

func portRange(cur *cursor, first, last rules.Register) (p PortRange, ok bool) {
	a, ok := cur.regs.get(first, 2)
	if !ok {
		return p, false
	}
	p.First = binary.BigEndian.Uint16(a)
	p.Last = p.First
	if last != 0 {
		b, ok := cur.regs.get(last, 2)
		if !ok {
			return p, false
		}
		p.Last = binary.BigEndian.Uint16(b)
	}
	if p.Last < p.First {
		p.First, p.Last = p.Last, p.First
	}
	return p, true
}

// addrRange lists the addresses of a range, or returns nil if there are too many.
func addrRange(from, to netip.Addr) (list []netip.Addr) {
	for a := from; ; a = a.Next() {
		if !a.IsValid() || len(list) == maxTranslations {
			return nil
		}
		list = append(list, a)
		if a == to {
			return list
		}
	}
}

// netmap keeps the bits of an address that a range leaves open.
func netmap(from, to, addr netip.Addr) netip.Addr {
	f, t, a := from.AsSlice(), to.AsSlice(), addr.AsSlice()
	if len(a) != len(f) {
		return from
	}
	for i := range f {
		open := f[i] ^ t[i]
		f[i] = f[i]&^open | a[i]&open
	}
	out, _ := netip.AddrFromSlice(f)
	return out
}

// translateTo translates to one of some addresses and ports, and accepts.
func (r *run) translateTo(rl *rules.Rule, cur *cursor, source bool, addrs []netip.Addr, ports PortRange, flags uint32) {
	if !cur.state.tracked() { // the kernel does not call nat chains then
		cur.broken()
		return
	}
	old := cur.state.ct.Answer.SrcPort
	if source {
		old = cur.state.ct.Answer.DstPort
	}
	var list []uint16
	narrow := PortRange{}
	random := flags&(unix.NF_NAT_RANGE_PROTO_RANDOM|unix.NF_NAT_RANGE_PROTO_RANDOM_FULLY) != 0
	switch {
	case ports == (PortRange{}):
		list = []uint16{0}
		if random && source {
			narrow = PortRange{1024, 65535}
			list = nil
		}
	case ports.First == ports.Last:
		list = []uint16{ports.First}
	case !random && old >= ports.First && old <= ports.Last && old != 0 && flags&unix.NF_NAT_RANGE_PROTO_OFFSET == 0:
		list = []uint16{0}
	case source:
		narrow = ports
	case int(ports.Last)-int(ports.First) < maxTranslations:
		for p := int(ports.First); p <= int(ports.Last); p++ {
			list = append(list, uint16(p))
		}
	default:
		r.translatesUnknown(rl, cur)
		return
	}
	if list == nil { // a source port of a range
		s := cur.change()
		s.ct.Answer.DstPort = 0
		s.ports = narrow
		s.ct.Status |= SrcNAT
		s.translated = rl
		list = []uint16{0}
	}
	if len(addrs) == 1 && len(list) == 1 {
		cur.change().setup(source, addrs[0], list[0], rl)
		cur.end(codeAccept)
		return
	}
	for _, a := range addrs {
		for _, p := range list {
			w := r.way(rl, cur, "which of several addresses or ports it translates to")
			w.change().setup(source, a, p, rl)
			w.end(codeAccept)
		}
	}
}

// translatesUnknown translates to something that is not known. As a source that is no obstacle.
func (r *run) translatesUnknown(rl *rules.Rule, cur *cursor) {
	if r.sourceHook() && cur.state.tracked() {
		s := cur.change()
		s.ct.Answer.Dst, s.ct.Answer.DstPort = netip.Addr{}, 0
		s.ct.Status |= SrcNAT | SrcNATDone
		s.translated = rl
		cur.end(codeAccept)
		return
	}
	why := r.what(cur, "what it translates to")
	cur.because = join(cur.because, []Unknown{{rl, why}})
	cur.end(codeUnclear)
}

func (r *run) what(cur *cursor, other string) string {
	if cur.what != "" {
		return cur.what
	}
	return other
}

// redir translates the destination to the host: to an address of the interface by which the packet
// came, or to itself at output.
func (r *run) redir(rl *rules.Rule, x rules.Redir, cur *cursor) {
	ports := PortRange{}
	if x.PortMin != 0 {
		var ok bool
		if ports, ok = portRange(cur, x.PortMin, x.PortMax); !ok {
			r.translatesUnknown(rl, cur)
			return
		}
	}
	r.redirTo(rl, cur, ports, x.Flags)
}

func (r *run) redirTo(rl *rules.Rule, cur *cursor, ports PortRange, flags uint32) {
	addr, ok := r.ownAddress(cur.state)
	if !ok {
		cur.end(codeDrop) // the interface has no address
		return
	}
	r.translateTo(rl, cur, false, []netip.Addr{addr}, ports, flags)
}

func (r *run) ownAddress(s *state) (netip.Addr, bool) {
	six := r.base.EtherType == unix.ETH_P_IPV6
	if r.hook == Output {
		if six {
			return netip.IPv6Loopback(), true
		}
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
	}
	linkLocal := s.addr(true).IsLinkLocalUnicast()
	for _, p := range r.base.In.Addresses {
		a := p.Addr().WithZone("")
		switch {
		case a.Is6() != six:
		case six && a.IsLinkLocalUnicast() != linkLocal:
		default:
			return a, true
		}
	}
	return netip.Addr{}, false
}

// masq translates the source to an address of the way out. The kernel takes the one by which the
// next hop is reached, which is not known here: the one with the destination on link, or the first.
func (r *run) masq(rl *rules.Rule, x rules.Masq, cur *cursor) {
	ports := PortRange{}
	if x.PortMin != 0 {
		var ok bool
		if ports, ok = portRange(cur, x.PortMin, x.PortMax); !ok {
			r.translatesUnknown(rl, cur)
			return
		}
	}
	r.masqTo(rl, cur, ports, x.Flags)
}

func (r *run) masqTo(rl *rules.Rule, cur *cursor, ports PortRange, flags uint32) {
	addr, ok := r.wayOutAddress(cur.state)
	if !ok {
		if len(r.base.Out.Addresses) > 0 {
			cur.end(codeDrop) // the interface has no address of the family
			return
		}
		cur.what = "the address of the way out"
		r.translatesUnknown(rl, cur)
		return
	}
	r.translateTo(rl, cur, true, []netip.Addr{addr}, ports, flags)
}

func (r *run) wayOutAddress(s *state) (addr netip.Addr, ok bool) {
	six := r.base.EtherType == unix.ETH_P_IPV6
	dst := s.addr(false)
	for _, p := range r.base.Out.Addresses {
		a := p.Addr().WithZone("")
		switch {
		case a.Is6() != six:
		case p.Masked().Contains(dst):
			return a, true
		case !ok || addr.IsLinkLocalUnicast() && !a.IsLinkLocalUnicast():
			addr, ok = a, true
		}
	}
	return addr, ok
}
