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

// natRange is what a nat rule translates to, as struct nf_nat_range2 of the kernel.
type natRange struct {
	source bool
	// Addresses from first to last. Invalid: the address stays.
	first, last netip.Addr
	// Ports; none: the port stays. With an offset, base is the port that the first one is for.
	ports PortRange
	base  uint16
	flags uint32 // NF_NAT_RANGE_*, of which those of addresses and ports are not read
	// what says why the address or port is not known; empty: it is known.
	what string
}

// natRule evaluates a nat expression.
func (r *run) natRule(rl *rules.Rule, x rules.Nat, cur *cursor) {
	six := r.base.EtherType == unix.ETH_P_IPV6
	if x.Family == unix.NFPROTO_IPV4 && six || x.Family == unix.NFPROTO_IPV6 && !six {
		return // in a table of inet it is for the other family: the rule goes on
	}
	n := natRange{source: x.Type == unix.NFT_NAT_SNAT, flags: x.Flags}
	if x.AddrMin != 0 {
		ok := r.loadAddr(cur, x.AddrMin, &n.first)
		n.last = n.first
		if ok && x.AddrMax != 0 {
			ok = r.loadAddr(cur, x.AddrMax, &n.last)
		}
		if !ok {
			n.what = cur.whatOr("the address that it translates to")
		}
	}
	n.loadPorts(cur, x.PortMin, x.PortMax)
	r.translateBy(rl, n, cur)
}

// redir translates the destination to the host.
func (r *run) redir(rl *rules.Rule, x rules.Redir, cur *cursor) {
	n := natRange{flags: x.Flags}
	n.loadPorts(cur, x.PortMin, x.PortMax)
	r.redirect(rl, n, cur)
}

// masq translates the source to an address of the way out.
func (r *run) masq(rl *rules.Rule, x rules.Masq, cur *cursor) {
	n := natRange{source: true, flags: x.Flags}
	n.loadPorts(cur, x.PortMin, x.PortMax)
	r.masquerade(rl, n, cur)
}

func (r *run) loadAddr(cur *cursor, reg rules.Register, a *netip.Addr) bool {
	n := 4
	if r.base.EtherType == unix.ETH_P_IPV6 {
		n = 16
	}
	b, ok := cur.regs.get(reg, n)
	if ok {
		*a, _ = netip.AddrFromSlice(b)
	}
	return ok
}

func (n *natRange) loadPorts(cur *cursor, first, last rules.Register) {
	if first == 0 {
		return
	}
	if last == 0 {
		last = first
	}
	a, ok1 := cur.regs.get(first, 2)
	b, ok2 := cur.regs.get(last, 2)
	if !ok1 || !ok2 {
		n.what = cur.whatOr("the port that it translates to")
		return
	}
	n.ports = PortRange{binary.BigEndian.Uint16(a), binary.BigEndian.Uint16(b)}
}

func (c *cursor) whatOr(other string) string {
	if c.what != "" {
		return c.what
	}
	return other
}

// redirect translates the destination to an address of the interface by which the packet came, or
// to the host itself at output.
func (r *run) redirect(rl *rules.Rule, n natRange, cur *cursor) {
	six := r.base.EtherType == unix.ETH_P_IPV6
	switch {
	case r.hook == Output && six:
		n.first = netip.IPv6Loopback()
	case r.hook == Output:
		n.first = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	default:
		linkLocal := cur.state.addr(true).IsLinkLocalUnicast()
		n.first = best(r.base.In.Addresses, six, func(p netip.Prefix) int {
			switch own := p.Addr().IsLinkLocalUnicast(); {
			case six && linkLocal && !own:
				return 0 // of another scope than the source
			case six && !linkLocal && own:
				return 1
			}
			return 2
		})
	}
	if !n.first.IsValid() {
		if len(r.base.In.Addresses) > 0 {
			cur.end(codeDrop) // the interface has no address that can be used
			return
		}
		n.what = "the addresses of the interface"
	}
	n.last = n.first
	r.translateBy(rl, n, cur)
}

// masquerade translates the source to an address of the way out. The kernel takes the one by which
// the next hop is reached, which is not known here: it is the one with the destination on link, or
// the first.
func (r *run) masquerade(rl *rules.Rule, n natRange, cur *cursor) {
	dst := cur.state.addr(false)
	n.first = best(r.base.Out.Addresses, r.base.EtherType == unix.ETH_P_IPV6, func(p netip.Prefix) int {
		switch {
		case p.Masked().Contains(dst):
			return 3
		case !p.Addr().IsLinkLocalUnicast():
			return 2
		}
		return 1
	})
	if !n.first.IsValid() {
		if len(r.base.Out.Addresses) > 0 {
			cur.end(codeDrop) // the interface has no address of the family
			return
		}
		n.what = "the addresses of the interface"
	}
	n.last = n.first
	r.translateBy(rl, n, cur)
}

// best returns the address with the most points, the first one if several have; invalid: none has any.
func best(list []netip.Prefix, six bool, points func(netip.Prefix) int) (addr netip.Addr) {
	most := 0
	for _, p := range list {
		p = netip.PrefixFrom(p.Addr().WithZone(""), p.Bits())
		if p.Addr().Is6() != six {
			continue
		}
		if n := points(p); n > most {
			addr, most = p.Addr(), n
		}
	}
	return addr
}

// translateBy does what a nat rule does, and accepts.
func (r *run) translateBy(rl *rules.Rule, n natRange, cur *cursor) {
	if !cur.state.tracked() {
		cur.broken() // the kernel does not call nat chains then
		return
	}
	if n.source != r.sourceHook() {
		cur.broken() // the kernel does not load such a rule
		return
	}
	to := cur.state.ct.Answer.invert()
	addr, port := to.Dst, to.DstPort
	if n.source {
		addr, port = to.Src, to.SrcPort
	}
	addrs := n.addrs(addr)
	ports, narrow := n.portsFrom(port)
	if n.what != "" || len(addrs) == 0 || len(ports) == 0 {
		r.translateUnknown(rl, n, cur)
		return
	}
	if narrow != (PortRange{}) {
		s := cur.change()
		s.ports = narrow
		s.ct.Answer.DstPort = 0
		s.ct.Status |= SrcNAT
		s.translated = rl
	}
	if len(addrs) == 1 && len(ports) == 1 {
		cur.change().setup(n.source, addrs[0], ports[0], rl)
		cur.end(codeAccept)
		return
	}
	for _, a := range addrs {
		for _, p := range ports {
			w := r.way(rl, cur, "which of several addresses or ports it translates to")
			w.change().setup(n.source, a, p, rl)
			w.end(codeAccept)
		}
	}
}

// addrs lists what an address may be translated to; an invalid one says that it stays. None: there
// are too many.
func (n *natRange) addrs(old netip.Addr) (list []netip.Addr) {
	if !n.first.IsValid() {
		return []netip.Addr{{}}
	}
	if n.flags&unix.NF_NAT_RANGE_NETMAP != 0 {
		return []netip.Addr{netmap(n.first, n.last, old)}
	}
	if n.source && old.IsValid() && old.Compare(n.first) >= 0 && old.Compare(n.last) <= 0 {
		return []netip.Addr{{}}
	}
	for a := n.first; ; a = a.Next() {
		if !a.IsValid() || len(list) == maxTranslations {
			return nil
		}
		list = append(list, a)
		if a == n.last {
			return list
		}
	}
}

// netmap keeps the bits of an address that a range leaves open.
func netmap(first, last, old netip.Addr) netip.Addr {
	f, l, o := first.AsSlice(), last.AsSlice(), old.AsSlice()
	if len(o) != len(f) || len(l) != len(f) {
		return first
	}
	for i := range f {
		open := f[i] ^ l[i]
		f[i] = f[i]&^open | o[i]&open
	}
	a, _ := netip.AddrFromSlice(f)
	return a
}

// portsFrom lists what a port may be translated to; zero says that it stays. None: there are too
// many. A source port may be any of a range instead, unless that is empty.
func (n *natRange) portsFrom(old uint16) (list []uint16, narrow PortRange) {
	random := n.flags&(unix.NF_NAT_RANGE_PROTO_RANDOM|unix.NF_NAT_RANGE_PROTO_RANDOM_FULLY) != 0
	first, last := n.ports.First, n.ports.Last
	if last < first {
		first, last = last, first
	}
	switch {
	case first == 0 && last == 0:
		if n.source && random {
			return []uint16{0}, PortRange{1024, 65535}
		}
		return []uint16{0}, PortRange{}
	case first == last:
		return []uint16{first}, PortRange{}
	case n.flags&unix.NF_NAT_RANGE_PROTO_OFFSET != 0 && old != 0:
		return []uint16{first + (old-n.base)%(last-first+1)}, PortRange{}
	case !random && old >= first && old <= last && old != 0:
		return []uint16{0}, PortRange{}
	case n.source:
		return []uint16{0}, PortRange{first, last}
	case int(last)-int(first) < maxTranslations:
		for p := int(first); p <= int(last); p++ {
			list = append(list, uint16(p))
		}
	}
	return list, PortRange{}
}

// translateUnknown translates to something that is not known. As a source that is no obstacle.
func (r *run) translateUnknown(rl *rules.Rule, n natRange, cur *cursor) {
	if n.source {
		s := cur.change()
		s.ct.Answer.Dst, s.ct.Answer.DstPort = netip.Addr{}, 0
		s.ct.Status |= SrcNAT | SrcNATDone
		s.translated = rl
		cur.end(codeAccept)
		return
	}
	if n.what == "" {
		n.what = "which of many addresses or ports it translates to"
	}
	cur.because = join(cur.because, []Unknown{{rl, n.what}})
	cur.end(codeUnclear)
}
