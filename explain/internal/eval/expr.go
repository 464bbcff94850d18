// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"encoding/binary"
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

// portOnly says whether a comparison is of the client's port and of nothing else, so that a way
// can note what the port is there.
func portOnly(cur *cursor, at, n int) bool {
	if n != 2 {
		return false
	}
	which, size := cur.regs.number(at, n)
	return which == clientPort && size == n
}

// forkPorts follows both ways, with the ports that each leaves; an empty range leaves them as they
// are.
func (r *run) forkPorts(rl *rules.Rule, cur *cursor, yes, no PortRange) {
	r.fork(rl, cur, ClientPort)
	n := len(r.ways)
	for i, ports := range []PortRange{yes, no} {
		if w := &r.ways[n-2+i]; ports != (PortRange{}) {
			w.change().ports = ports
		}
	}
}

func (r *run) cmp(rl *rules.Rule, x rules.Cmp, cur *cursor) {
	at, ok := span(x.Sreg, len(x.Data))
	if !ok {
		r.fork(rl, cur, "an odd comparison")
		return
	}
	ports := cur.state.ports
	a := cur.regs.compare(at, x.Op, x.Data, cur.state)
	if a == Maybe && portOnly(cur, at, len(x.Data)) {
		yes, no := splitPorts(ports, x.Op, binary.BigEndian.Uint16(x.Data))
		r.forkPorts(rl, cur, yes, no)
		return
	}
	r.hold(rl, cur, a, r.unsaid(cur, at, len(x.Data)))
}

// unsaid says what is not known of some bytes of the registers.
func (r *run) unsaid(cur *cursor, at, n int) string {
	for i := range n {
		if p := cur.regs.part[at+i]; p != 0 {
			return p.number().String()
		}
	}
	return cur.whatOr("something of the packet")
}

// splitPorts returns the ports for which a comparison holds, and the others. One that is not a range
// is empty.
func splitPorts(p PortRange, op uint32, port uint16) (yes, no PortRange) {
	below := func(last uint16) PortRange { return PortRange{p.First, last} }
	from := func(first uint16) PortRange { return PortRange{first, p.Last} }
	switch op {
	case unix.NFT_CMP_LT:
		return below(port - 1), from(port)
	case unix.NFT_CMP_LTE:
		return below(port), from(port + 1)
	case unix.NFT_CMP_GT:
		return from(port + 1), below(port)
	case unix.NFT_CMP_GTE:
		return from(port), below(port - 1)
	}
	yes, no = PortRange{port, port}, PortRange{}
	switch port {
	case p.First:
		no = from(port + 1)
	case p.Last:
		no = below(port - 1)
	}
	if op == unix.NFT_CMP_NEQ {
		return no, yes
	}
	return yes, no
}

func (r *run) between(rl *rules.Rule, x rules.Range, cur *cursor) {
	at, ok := span(x.Sreg, len(x.From))
	if !ok || len(x.From) != len(x.To) {
		r.fork(rl, cur, "an odd range")
		return
	}
	ports := cur.state.ports
	a := cur.regs.between(at, x.From, x.To, cur.state)
	if a == Maybe && portOnly(cur, at, len(x.From)) {
		in, out := PortRange{binary.BigEndian.Uint16(x.From), binary.BigEndian.Uint16(x.To)}, PortRange{}
		switch {
		case in.First <= ports.First:
			out = PortRange{in.Last + 1, ports.Last}
		case in.Last >= ports.Last:
			out = PortRange{ports.First, in.First - 1}
		}
		in = PortRange{max(in.First, ports.First), min(in.Last, ports.Last)}
		if x.Not {
			in, out = out, in
		}
		r.forkPorts(rl, cur, in, out)
		return
	}
	if x.Not {
		a = not(a)
	}
	r.hold(rl, cur, a, r.unsaid(cur, at, len(x.From)))
}

func bitwise(x rules.Bitwise, g *regs) {
	from, ok1 := span(x.Sreg, x.Len)
	to, ok2 := span(x.Dreg, x.Len)
	if !ok1 || !ok2 {
		return
	}
	val, known, part := g.val, g.known, g.part
	out := make([]byte, 0, nregs)
	bits := make([]byte, 0, nregs)
	keep := true
	switch x.Op {
	case rules.BitwiseLshift, rules.BitwiseRshift:
		out, bits = shift(val[from:from+x.Len], x.Op == rules.BitwiseLshift, x.Shift), shift(known[from:from+x.Len], x.Op == rules.BitwiseLshift, x.Shift)
		fill := shift(ones(x.Len), x.Op == rules.BitwiseLshift, x.Shift)
		for i := range bits {
			bits[i] |= ^fill[i]
		}
		keep = x.Shift == 0
	case rules.BitwiseAnd, rules.BitwiseOr, rules.BitwiseXor:
		var v, k [nregs]byte
		if at, ok := span(x.Sreg2, x.Len); ok && x.Sreg2 != 0 {
			copy(v[:], val[at:at+x.Len])
			copy(k[:], known[at:at+x.Len])
		} else {
			copy(v[:], x.Data)
			for i := range min(len(x.Data), x.Len) {
				k[i] = 0xff
			}
		}
		keep = false
		for i := range x.Len {
			a, ka, b, kb := val[from+i], known[from+i], v[i], k[i]
			switch x.Op {
			case rules.BitwiseAnd:
				out, bits = append(out, a&b), append(bits, ka&kb|ka&^a|kb&^b)
			case rules.BitwiseOr:
				out, bits = append(out, a|b), append(bits, ka&kb|ka&a|kb&b)
			default:
				out, bits = append(out, a^b), append(bits, ka&kb)
			}
		}
	default: // NFT_BITWISE_MASK_XOR
		for i := range x.Len {
			var mask, xor byte
			if i < len(x.Mask) {
				mask = x.Mask[i]
			}
			if i < len(x.Xor) {
				xor = x.Xor[i]
			}
			keep = keep && mask == 0xff && xor == 0
			out, bits = append(out, val[from+i]&mask^xor), append(bits, known[from+i]|^mask)
		}
	}
	for i := range (x.Len + 3) &^ 3 {
		if to+i >= nregs {
			break
		}
		g.val[to+i], g.known[to+i], g.part[to+i] = 0, 0xff, 0
		if i < x.Len {
			g.val[to+i], g.known[to+i] = out[i], bits[i]
			if keep {
				g.part[to+i] = part[from+i]
			}
		}
	}
}

func ones(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 0xff
	}
	return b
}

// shift shifts fields of 4 bytes, the last of which, or the first, is the lowest.
func shift(b []byte, left bool, n uint32) []byte {
	words := (len(b) + 3) / 4
	in := make([]byte, words*4)
	copy(in, b)
	out := make([]byte, words*4)
	n %= 32
	var carry uint32
	for i := range words {
		at := 4 * i
		if left {
			at = 4 * (words - 1 - i)
		}
		v := binary.NativeEndian.Uint32(in[at:])
		if left {
			binary.NativeEndian.PutUint32(out[at:], v<<n|carry)
			carry = v >> (32 - n)
		} else {
			binary.NativeEndian.PutUint32(out[at:], v>>n|carry)
			carry = v << (32 - n)
		}
	}
	return out[:len(b)]
}

// byteorder swaps bytes, where the host's order is not the network's.
func byteorder(x rules.Byteorder, g *regs) {
	from, ok1 := span(x.Sreg, x.Len)
	to, ok2 := span(x.Dreg, x.Len)
	if !ok1 || !ok2 || x.Size < 1 || x.Size > 8 {
		return
	}
	swap := binary.NativeEndian.Uint16([]byte{0, 1}) != 1
	old := *g
	for i := 0; i+x.Size <= x.Len; i += x.Size {
		for j := range x.Size {
			k := from + i + j
			if swap {
				k = from + i + x.Size - 1 - j
			}
			g.val[to+i+j], g.known[to+i+j], g.part[to+i+j] = old.val[k], old.known[k], old.part[k]
		}
	}
}

func notrack(cur *cursor) {
	if s := cur.state; s.ct.Seen || s.ct.Untracked || s.zone != 0 {
		return
	}
	cur.change().ct.Untracked = true
}

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

func (r *run) quota(rl *rules.Rule, x rules.Quota, cur *cursor) {
	const most = 65575 // bytes of a packet
	a := Maybe         // whether more have passed
	switch {
	case x.Used >= x.Bytes:
		a = Yes
	case x.Used+most < x.Bytes:
		a = No
	}
	if !x.Over {
		a = not(a)
	}
	r.hold(rl, cur, a, "a quota")
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

// queues is what Facts may know besides.
type queues interface {
	// Queue reports whether a program takes packets from a queue.
	Queue(number uint16) (bool, error)
}

// queue gives the packet to a program. What that lets pass goes on with the next base chain. If there
// is none, the kernel drops the packet, or lets it pass if the rule says so.
func (r *run) queue(rl *rules.Rule, x rules.Queue, cur *cursor) {
	taken, alone := true, false
	if q, ok := r.facts.(queues); ok && x.Sreg == 0 {
		taken = false
		for i := range min(max(x.Total, 1), 1<<16) {
			one, err := q.Queue(uint16(x.First + i))
			taken = taken || one || err != nil
			alone = alone || !one && err == nil
		}
	}
	without := int32(codeDrop)
	if x.Flags&unix.NFT_QUEUE_FLAG_BYPASS != 0 {
		without = codeAccept
	}
	if !taken {
		cur.end(without)
		return
	}
	reason := "a program that decides"
	r.way(rl, cur, reason).end(codeAccept)
	r.way(rl, cur, reason).end(codeQueue)
	if alone && without == codeDrop {
		r.way(rl, cur, "which queue it is").end(codeDrop)
	}
}

// tproxy gives the packet to a local socket, or breaks off if there is none. A packet that has a socket is
// not forwarded, whatever other rules make of it.
func (r *run) tproxy(rl *rules.Rule, cur *cursor) {
	if p := r.base.Proto; p != unix.IPPROTO_TCP && p != unix.IPPROTO_UDP {
		cur.broken()
		return
	}
	const reason = "the socket that tproxy looks for"
	r.way(rl, cur, reason).end(codeStolen)
	r.way(rl, cur, reason).broken()
}

func (r *run) synproxy(cur *cursor) {
	flags := cur.state.th.val[13]
	switch {
	case r.base.Proto != unix.IPPROTO_TCP:
		cur.broken()
	case flags&(tcpSYN|tcpACK) != 0:
		cur.end(codeStolen)
	}
}

// NFT_OBJECT_* of objects that decide.
const (
	objectQuota     = 2
	objectLimit     = 4
	objectConnLimit = 5
	objectSynproxy  = 10
)

func (r *run) objref(rl *rules.Rule, x rules.Objref, cur *cursor) {
	name, typ := x.Name, x.Type
	if x.Map != "" {
		set := rl.Chain.Table.Sets[x.Map]
		if set == nil {
			r.fork(rl, cur, "map "+x.Map+", which is not there")
			return
		}
		key, ok := cur.regs.get(x.Sreg, int(set.KeyLen))
		if !ok {
			r.fork(rl, cur, "the object of map "+x.Map)
			return
		}
		e, ok, err := r.facts.Get(set, key)
		switch {
		case err != nil:
			r.fork(rl, cur, "map "+x.Map+", which cannot be read")
			return
		case !ok:
			cur.broken()
			return
		}
		name, typ = e.Object, set.ObjType
	}
	switch typ {
	case objectLimit:
		r.fork(rl, cur, "a limit")
	case objectConnLimit:
		r.fork(rl, cur, "a limit of connections")
	case objectSynproxy:
		r.synproxy(cur)
	case objectQuota:
		o, err := r.facts.Object(rl.Chain.Table, typ, name)
		if q, ok := o.Value.(rules.Quota); ok && err == nil {
			r.quota(rl, q, cur)
			return
		}
		r.fork(rl, cur, "a quota")
	}
}
