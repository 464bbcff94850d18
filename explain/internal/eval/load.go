// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

func (r *run) exthdr(rl *rules.Rule, x rules.Exthdr, cur *cursor) {
	if x.Set {
		return // what is set in options is not known of before either
	}
	absent := func() {
		if x.Present {
			cur.regs.store(x.Dreg, 0)
			return
		}
		cur.broken()
	}
	switch x.Op {
	case unix.NFT_EXTHDR_OP_IPV6:
		if r.base.EtherType != unix.ETH_P_IPV6 {
			cur.broken()
			return
		}
		absent()
	case exthdrIPv4:
		if r.base.EtherType != unix.ETH_P_IP {
			cur.broken()
			return
		}
		absent()
	case unix.NFT_EXTHDR_OP_TCPOPT:
		r.tcpOption(rl, x, cur, absent)
	default:
		absent()
	}
}

// tcpOption loads an option of TCP. A SYN has a segment size, and other packets have not.
func (r *run) tcpOption(rl *rules.Rule, x rules.Exthdr, cur *cursor, absent func()) {
	const mss = 2
	syn := cur.state.th.val[13]&tcpSYN != 0
	switch {
	case x.Dreg == 0 && r.base.Proto == unix.IPPROTO_TCP: // it removes the option
		return
	case r.base.Proto != unix.IPPROTO_TCP, x.Type == mss && !syn:
		absent()
		return
	case x.Present && x.Type == mss:
		cur.regs.store(x.Dreg, 1)
		return
	case x.Present:
		cur.regs.forget(x.Dreg, 1)
		cur.what = "an option of TCP"
		if at, ok := span(x.Dreg, 1); ok {
			cur.regs.known[at] = 0xfe
		}
		return
	}
	cur.regs.forget(x.Dreg, x.Len)
	cur.what = "an option of TCP"
	switch {
	case x.Type != mss:
		r.fork(rl, cur, "an option of TCP")
	case x.Offset == 2 && x.Len == 2:
		cur.regs.storeNumber(x.Dreg, segmentSize)
	}
}

func (r *run) fib(rl *rules.Rule, x rules.Fib, cur *cursor) {
	size := fibLen(x)
	if r.breaksLater(rl, cur, x.Dreg, size) {
		cur.broken()
		return
	}
	p := cur.state.packet(&r.base)
	data, err := r.facts.Fib(&p, r.hookNumber(rl), x.Flags, x.Result)
	if err != nil {
		cur.regs.forget(x.Dreg, size)
		cur.what = "a look-up of the route"
		return
	}
	for len(data) < size {
		data = append(data, 0)
	}
	cur.regs.store(x.Dreg, data...)
}

// fibLen is how many bytes a fib expression loads.
func fibLen(x rules.Fib) int {
	switch {
	case x.Flags&unix.NFTA_FIB_F_PRESENT != 0:
		return 1
	case x.Result == unix.NFT_FIB_RESULT_OIFNAME:
		return unix.IFNAMSIZ
	}
	return 4
}

// hookNumber is the kernel's number of the hook for a rule.
func (r *run) hookNumber(rl *rules.Rule) uint32 {
	if r.hook == Ingress && rl.Chain.Table.Family == unix.NFPROTO_INET {
		return nfInetIngress
	}
	return r.hook.number()
}

func (r *run) rt(x rules.Rt, cur *cursor) {
	if r.hook == Ingress || r.hook == Prerouting {
		cur.broken() // there is no route yet
		return
	}
	cur.what = "something of the route"
	switch x.Key {
	case rtXfrm:
		cur.regs.store(x.Dreg, 0)
	case unix.NFT_RT_NEXTHOP6:
		if r.base.EtherType != unix.ETH_P_IPV6 {
			cur.broken()
			return
		}
		cur.regs.forget(x.Dreg, 16)
	case unix.NFT_RT_NEXTHOP4:
		if r.base.EtherType != unix.ETH_P_IP {
			cur.broken()
			return
		}
		cur.regs.forget(x.Dreg, 4)
	case unix.NFT_RT_TCPMSS:
		cur.regs.forget(x.Dreg, 2)
	default:
		cur.regs.forget(x.Dreg, 4)
	}
}

// number loads a number below modulus. Few are followed one by one.
func (r *run) number(rl *rules.Rule, cur *cursor, dreg rules.Register, modulus, offset uint32, reason string) {
	switch {
	case modulus <= 1:
		cur.regs.store32(dreg, offset)
	case modulus <= 32:
		for n := range modulus {
			r.way(rl, cur, reason).regs.store32(dreg, offset+n)
		}
	case offset == 0:
		cur.what = reason
		cur.regs.store32below(dreg, modulus)
	default:
		cur.what = reason
		cur.regs.forget(dreg, 4)
	}
}
