// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

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
