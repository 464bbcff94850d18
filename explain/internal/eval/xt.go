// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/internal/rules/xt"
)

// match evaluates a match of iptables.
func (r *run) match(rl *rules.Rule, x rules.Match, cur *cursor) {
	family := rl.Chain.Table.Family
	m := xtMatch{p: r.asPacket(cur.state), hook: r.hookNumber(rl), facts: r.facts, now: r.now, name: x.Name, added: cur.state.added}
	if h, ok := xt.DecodeHeader(family, x); ok { // most rules are for others, and end here
		a := m.header(h)
		r.hold(rl, cur, a.Answer, a.reason)
		return
	}
	v := xt.DecodeMatch(family, x)
	a := m.answer(v)
	if v, ok := v.(xt.Recent); ok && v.Check&xt.RecentSet != 0 {
		if k := recentKey(v, m.p); !strings.Contains(cur.state.added, k) {
			cur.change().added += k
		}
	}
	r.hold(rl, cur, a.Answer, a.reason)
}

// asPacket returns the packet of a state, which is made once.
func (r *run) asPacket(s *state) *Packet {
	if r.xt.state != *s {
		r.xt.state, r.xt.packet = *s, s.packet(&r.base)
	}
	return &r.xt.packet
}

// target evaluates a target of iptables.
func (r *run) target(rl *rules.Rule, x rules.Target, cur *cursor) {
	e := targetXT(rl.Chain.Table.Family, x)
	if e.change != nil {
		p := cur.state.packet(&r.base)
		e.change(&p)
		cur.change().apply(&p)
	}
	if e.zone != 0 && !cur.state.ct.Seen && !cur.state.ct.Untracked {
		s := cur.change()
		s.zone, s.zoneDirs = e.zone, e.zoneDirs
	}
	switch e.kind {
	case goesOn:
	case decides:
		if e.code != codeContinue {
			cur.end(e.code)
		}
	case rejects:
		cur.end(codeReject)
	case takes:
		r.queue(rl, e.queue, cur)
	case synproxies:
		r.synproxy(cur)
	case translates:
		r.natTarget(rl, e.nat, cur)
	case unknown:
		r.unknown(rl, cur, e.reason)
	}
}

// apply takes over what a target changed of a packet.
func (s *state) apply(p *Packet) {
	s.mark, s.markUnknown, s.priority, s.pktType, s.ct = p.Mark, p.MarkUnknown, p.Priority, p.PktType, p.CT
	switch s.net.len {
	case 20:
		s.net.set(1, p.TOS)
		if p.TTL > 0 {
			s.net.set(8, p.TTL)
		}
	case 40:
		s.net.set(0, 0x60|p.TOS>>4)
		s.net.val[1] = p.TOS<<4 | s.net.val[1]&0x0f
		if p.TTL > 0 {
			s.net.set(7, p.TTL)
		}
	default:
		return
	}
	if s.addr(true) != p.Src {
		s.setAddr(true, p.Src)
	}
	if s.addr(false) != p.Dst {
		s.setAddr(false, p.Dst)
	}
}

// known is whether something holds, and why that cannot be known.
type known struct {
	Answer
	reason string
}

// yes is what is known.
func yes(b bool) known {
	if b {
		return known{Answer: Yes}
	}
	return known{Answer: No}
}

// maybe is what is not.
func maybe(format string, a ...any) known { return known{Maybe, fmt.Sprintf(format, a...)} }

// not inverts what is known if an option is inverted.
func (k known) not(inverted bool) known {
	if inverted && k.Answer != Maybe {
		return yes(k.Answer == No)
	}
	return k
}

// all holds if each one does. One that does not decides, whatever is not known of others.
func all(list ...known) known {
	out := yes(true)
	for _, k := range list {
		switch {
		case k.Answer == No:
			return k
		case k.Answer == Maybe && out.Answer == Yes:
			out = k
		}
	}
	return out
}

// either holds if one does.
func either(list ...known) known {
	out := yes(false)
	for _, k := range list {
		switch {
		case k.Answer == Yes:
			return k
		case k.Answer == Maybe && out.Answer == No:
			out = k
		}
	}
	return out
}

// effect is what a target of iptables does to a packet that comes to it.
type effect struct {
	kind   effectKind
	reason string // of an effect that is not known
	nat    xt.Nat // of a translation
	code   int32  // of what decides
	queue  rules.Queue
	zone   uint16
	// zoneDirs is as Conn.ZoneDirs.
	zoneDirs uint8
	// change is applied to the packet of what goes on, as a mark; nil: none.
	change func(*Packet)
}

// effectKind is what a target does beside a change.
type effectKind int

const (
	goesOn effectKind = iota
	decides
	rejects
	synproxies
	takes      // by a program
	translates // and accepts
	unknown    // it may do anything
)

// targetXT evaluates a target of iptables.
func targetXT(family rules.Family, t rules.Target) effect {
	switch v := xt.DecodeTarget(family, t).(type) {
	case xt.Reject:
		return effect{kind: rejects}
	case xt.Queue:
		q := rules.Queue{First: uint32(v.From), Total: uint32(v.To) - uint32(v.From) + 1}
		if v.Bypass {
			q.Flags = unix.NFT_QUEUE_FLAG_BYPASS
		}
		return effect{kind: takes, queue: q}
	case xt.SetMark:
		return effect{change: func(p *Packet) { p.Mark = p.Mark&^v.Mask ^ v.Mark; p.MarkUnknown = p.MarkUnknown && v.Mask != 1<<32-1 }}
	case xt.SetConnmark:
		return effect{change: func(p *Packet) { setConnmark(p, v) }}
	case xt.Track:
		if v.Notrack {
			return effect{change: func(p *Packet) { p.CT.Untracked = p.CT.Untracked || !p.CT.Seen }}
		}
		return effect{zone: v.Zone, zoneDirs: v.ZoneDirs}
	case xt.Nat:
		return effect{kind: translates, nat: v}
	case xt.SetTTL:
		return effect{change: func(p *Packet) { setTTL(p, v) }}
	case xt.SetTOS:
		return effect{change: func(p *Packet) { p.TOS = p.TOS&^v.Mask ^ v.Value }}
	case xt.Classify:
		return effect{change: func(p *Packet) { p.Priority = v.Priority }}
	case xt.AddSet:
		if v.MapsMark {
			return effect{change: func(p *Packet) { p.MarkUnknown = true }}
		}
		return effect{}
	case xt.Marks:
		return effect{change: func(p *Packet) { p.MarkUnknown = true }}
	case xt.Harmless:
		return effect{}
	case xt.BridgeSetMark:
		return effect{kind: decides, code: bridgeCode(v.Verdict), change: func(p *Packet) {
			p.Mark = (p.Mark&^v.Clear | v.Set) ^ v.Flip
			p.MarkUnknown = p.MarkUnknown && v.Clear != 1<<32-1
		}}
	case xt.BridgeSource:
		return effect{kind: decides, code: bridgeCode(v.Verdict)}
	case xt.BridgeAnswer:
		return effect{kind: decides, code: bridgeCode(v.Verdict)}
	case xt.Synproxy:
		return effect{kind: synproxies}
	case xt.Taking:
		return effect{kind: unknown, reason: v.Text}
	}
	return effect{kind: unknown, reason: fmt.Sprintf("a target %s that is not read", t.Name)}
}

// setConnmark does what the target CONNMARK does.
func setConnmark(p *Packet, t xt.SetConnmark) {
	if !tracked(p) {
		return
	}
	shift := func(v uint32) uint32 {
		if t.ShiftRight {
			return v >> t.Shift
		}
		return v << t.Shift
	}
	switch t.Mode {
	case 0:
		p.CT.Mark = shift(p.CT.Mark&^t.Mask ^ t.Mark)
		p.CT.MarkUnknown = p.CT.MarkUnknown && t.Mask != 1<<32-1
	case 1:
		p.CT.Mark = p.CT.Mark&^t.Mask ^ shift(p.Mark&t.PacketMask)
		p.CT.MarkUnknown = p.MarkUnknown || p.CT.MarkUnknown && t.Mask != 1<<32-1
	case 2:
		p.Mark = p.Mark&^t.PacketMask ^ shift(p.CT.Mark&t.Mask)
		p.MarkUnknown = p.CT.MarkUnknown || p.MarkUnknown && t.PacketMask != 1<<32-1
	}
}

// setTTL does what the targets TTL and HL do.
func setTTL(p *Packet, t xt.SetTTL) {
	n := int(p.TTL)
	switch {
	case t.Mode == 0:
		n = int(t.Value)
	case p.TTL == 0: // not known
		return
	case t.Mode == 1:
		n += int(t.Value)
	default:
		n -= int(t.Value)
	}
	p.TTL = uint8(max(min(n, 255), 0))
}

// natTarget translates as DNAT, SNAT, MASQUERADE, REDIRECT and NETMAP do.
func (r *run) natTarget(rl *rules.Rule, n xt.Nat, cur *cursor) {
	to := natRange{source: n.Kind == "SNAT" || n.Kind == "MASQUERADE" || n.Kind == "NETMAP" && r.sourceHook(), base: n.PortBase, flags: n.Flags}
	if n.Flags&xt.NatPorts != 0 {
		to.ports = PortRange{n.PortMin, n.PortMax}
	}
	if n.Kind == "NETMAP" {
		to.flags |= xt.NatNetmap
	}
	switch n.Kind {
	case "MASQUERADE":
		r.masquerade(rl, to, cur)
	case "REDIRECT":
		r.redirect(rl, to, cur)
	default:
		if n.Flags&xt.NatIPs != 0 {
			to.first, to.last = n.Min, n.Max
		}
		r.translateBy(rl, to, cur)
	}
}

// tracked reports whether the packet has a connection.
func tracked(p *Packet) bool { return p.CT.Seen && !p.CT.Untracked && p.CT.State != Invalid }
