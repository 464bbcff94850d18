// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

// What include/uapi/linux/netfilter/nf_tables.h has and x/sys/unix does not.
const (
	exthdrIPv4 = 2

	dynsetDelete = 2

	rtXfrm = 4

	verdictBypass = 0x8000 // NF_VERDICT_FLAG_QUEUE_BYPASS
)

// broken are the reasons for which an expression breaks off the rule.
func (c *cursor) broken() { c.end(codeBreak) }

// hold lets the rule go on if something holds, breaks it off if not, and else follows both ways.
func (r *run) hold(rl *rules.Rule, cur *cursor, a Answer, reason string) {
	switch a {
	case Yes:
	case No:
		cur.broken()
	case Maybe:
		r.fork(rl, cur, reason)
	}
}

// expr evaluates one expression: it changes the cursor, or gives it a verdict, or leaves more than
// one way.
func (r *run) expr(rl *rules.Rule, x rules.Expr, cur *cursor) {
	switch x := x.(type) {
	case rules.Immediate:
		if x.Decision != nil {
			r.decide(rl, cur, *x.Decision)
			return
		}
		cur.regs.store(x.Dreg, x.Data...)
	case rules.Cmp:
		r.cmp(rl, x, cur)
	case rules.Range:
		r.between(rl, x, cur)
	case rules.Bitwise:
		bitwise(x, &cur.regs)
	case rules.Byteorder:
		byteorder(x, &cur.regs)
	case rules.Meta:
		if x.Set {
			r.metaSet(x, cur)
		} else {
			r.meta(rl, x, cur)
		}
	case rules.CT:
		if x.Set {
			r.ctSet(x, cur)
		} else {
			r.ct(rl, x, cur)
		}
	case rules.Payload:
		if x.Set {
			payloadSet(x, cur)
		} else {
			r.payload(rl, x, cur)
		}
	case rules.Exthdr:
		r.exthdr(rl, x, cur)
	case rules.Lookup:
		r.lookup(rl, x, cur)
	case rules.Dynset:
		r.dynset(rl, x, cur)
	case rules.Fib:
		r.fib(rl, x, cur)
	case rules.Nat:
		r.natRule(rl, x, cur)
	case rules.Redir:
		r.redir(rl, x, cur)
	case rules.Masq:
		r.masq(rl, x, cur)
	case rules.Reject:
		cur.end(codeReject)
	case rules.Limit:
		r.fork(rl, cur, "a limit")
	case rules.Quota:
		r.quota(rl, x, cur)
	case rules.ConnLimit:
		r.fork(rl, cur, "a limit of connections")
	case rules.Notrack:
		notrack(cur)
	case rules.Rt:
		r.rt(x, cur)
	case rules.Socket:
		cur.regs.forget(x.Dreg, 4)
		r.fork(rl, cur, "the socket that takes the packet")
	case rules.Numgen:
		r.number(rl, cur, x.Dreg, x.Modulus, x.Offset, "a number that changes with each packet")
	case rules.Hash:
		r.number(rl, cur, x.Dreg, x.Modulus, x.Offset, "a hash")
	case rules.Queue:
		r.queue(rl, x, cur)
	case rules.Fwd:
		cur.end(codeStolen)
	case rules.Tproxy:
		r.tproxy(rl, cur)
	case rules.Synproxy:
		r.synproxy(cur)
	case rules.Flow:
		r.fork(rl, cur, "a flow table")
	case rules.Objref:
		r.objref(rl, x, cur)
	case rules.OSF:
		cur.regs.forget(x.Dreg, 16)
		r.fork(rl, cur, "the operating system that the packet looks like")
	case rules.Xfrm, rules.Tunnel:
		cur.broken() // the packets that are made up come by no tunnel
	case rules.Inner:
		cur.regs = regs{}
		r.fork(rl, cur, "an expression about the inner packet of a tunnel")
	case rules.Match:
		r.match(rl, x, cur)
	case rules.Target:
		r.target(rl, x, cur)
	case rules.Counter, rules.Log, rules.Last, rules.Dup:
	case rules.CTHelper, rules.CTTimeout, rules.CTExpectation, rules.Secmark:
	case rules.Unknown:
		r.unknown(rl, cur, "an expression "+x.Name+" that is not read")
	default:
		r.unknown(rl, cur, fmt.Sprintf("an expression %T that is not evaluated", x))
	}
}

// unknown follows what an expression may do of which nothing is known.
func (r *run) unknown(rl *rules.Rule, cur *cursor, reason string) {
	cur.regs = regs{}
	r.fork(rl, cur, reason)
	r.way(rl, cur, reason).end(codeUnclear)
}

// decide gives a rule the verdict of a decision.
func (r *run) decide(rl *rules.Rule, cur *cursor, d rules.Decision) {
	code := d.Code
	if code > 0 {
		code &= 0xff // a queue has its number above
	}
	switch code {
	case codeContinue:
	case codeBreak, codeReturn, codeDrop, codeAccept, codeStolen:
		cur.end(code)
	case codeQueue:
		flags := uint32(0)
		if d.Code&verdictBypass != 0 {
			flags = unix.NFT_QUEUE_FLAG_BYPASS
		}
		r.queue(rl, rules.Queue{First: uint32(d.Code) >> 16, Flags: flags}, cur)
	case codeJump, codeGoto:
		cur.target = d.Chain
		cur.end(code)
	default:
		cur.because = join(cur.because, []Unknown{{rl, fmt.Sprintf("a verdict %d that is not known", d.Code)}})
		cur.end(codeUnclear)
	}
}
