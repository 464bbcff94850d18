// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/trace/internal/marking"
)

// packet is one that events come of.
type packet struct {
	Packet
	ids     []uint32
	first   header
	now     header // as it was seen last
	last    time.Time
	ended   string // "first" or "last": which end of the hook was seen last, of the own chains
	steps   int
	decided bool // a rule has dropped or queued it
	drop    *dropped
	// answered is set once an answer has come, and missed once it was said that none has.
	answered, missed bool
}

// kernel is what is asked of the kernel about packets.
type kernel interface {
	// refresh reads names anew if they have changed.
	refresh(ctx context.Context)
	// hook names the hook of a base chain; "" for other chains.
	hook(family uint8, table, chain string) string
	// rule is a rule as nft(8) lists it.
	rule(family uint8, table, chain string, handle uint64) string
	// link names an interface; "" for zero.
	link(index int) string
	// neighbour is the state of a neighbour that is not there; "" if it is, or is not known.
	neighbour(link string, addr netip.Addr) string
	// flowtables names the flow tables.
	flowtables() []string
	// function names where a packet was dropped.
	function(address uint64) string
	// translated says that a packet was translated to a port.
	translated(proto uint8, port uint16)
}

// packets are those on their way.
type packets struct {
	kernel  kernel
	table   string // the own one
	from    netip.Addr
	notify  func(Event) error
	err     error // of notify
	count   uint64
	byID    map[uint32]*packet
	open    []*packet // the oldest first
	local   []netip.Prefix
	targets map[marking.Target]bool
	full    uint64    // packets that had no room
	unread  []string  // tables of iptables-legacy
	recent  []*packet // the last that have ended, the oldest first
	drops   []waiting
	// unseen counts dropped packets without events that were not told of, and unseenTold those that were, in this second.
	unseen     uint64
	unseenTold int
}

// Bounds: packets on their way, steps that are told of each, and packets that are remembered.
const (
	mostOpen   = 1024
	mostSteps  = 100
	mostRecent = 256
)

// quiet is how long nothing more is seen of a packet before it counts as gone.
const quiet = 50 * time.Millisecond

func newPackets(k kernel, table string, from netip.Addr) *packets {
	return &packets{kernel: k, table: table, from: from.Unmap().WithZone(""), byID: map[uint32]*packet{}, targets: map[marking.Target]bool{}}
}

func (ps *packets) setTargets(targets []marking.Target) {
	clear(ps.targets)
	for _, g := range targets {
		ps.targets[g] = true
	}
}

func (ps *packets) send(e Event) {
	if ps.err == nil {
		ps.err = ps.notify(e)
	}
}

// event follows the packet of an event.
func (ps *packets) event(ctx context.Context, m message, now time.Time) {
	own := m.table == ps.table && m.family == unix.NFPROTO_INET
	if own && m.chain == marking.MarkChain {
		if m.known {
			ps.begin(ctx, m, now)
		}
		return
	}
	p := ps.find(m)
	if p == nil {
		return // it was marked by another program, or its begin was lost
	}
	p.last = now
	if m.known {
		p.now = m.header
		ps.see(p, m)
		if p.now.dst != p.first.dst {
			ps.kernel.translated(p.now.proto, p.now.dst.Port())
		}
	}
	if own {
		name, end, ok := strings.Cut(m.chain, "-")
		if ok {
			p.Hook, p.ended = name, end
		}
		return
	}
	// The end of a chain, and chains of another trace, are no steps.
	if (m.typ == unix.NFT_TRACETYPE_POLICY || m.handle != 0) && !strings.HasPrefix(m.table, marking.NamePrefix) {
		ps.step(p, m)
	}
}

// begin begins a packet.
func (ps *packets) begin(ctx context.Context, m message, now time.Time) {
	if old := ps.byID[m.id]; old != nil {
		ps.finish(old) // the number is used again
	}
	if len(ps.open) >= mostOpen {
		ps.full++
		return
	}
	ps.kernel.refresh(ctx)
	ps.count++
	p := &packet{first: m.header, now: m.header, last: now, ids: []uint32{m.id}}
	p.Begin = beginOf(m.header, ps.count, now)
	if p.Answer = !ps.asked(m.header); p.Answer {
		if q := ps.answered(m.header); q != nil {
			q.answered = true
		}
	}
	switch {
	case m.iif != 0:
		p.Hook = "prerouting"
	default:
		p.Hook = "output"
	}
	ps.byID[m.id] = p
	ps.open = append(ps.open, p)
	ps.see(p, m)
	ps.send(p.Begin)
}

// asked reports whether a packet is one to what was asked for, and not an answer.
func (ps *packets) asked(h header) bool {
	led := marking.Target{Proto: h.proto, Addr: h.dst.Addr(), Port: h.dst.Port(), FromHost: true}
	if ps.targets[led] && marking.MayBeLed(ps.from) && ps.isLocal(h.src.Addr()) {
		return true
	}
	if ps.from.IsValid() && ps.from != h.src.Addr() {
		return false
	}
	g := marking.Target{Proto: h.proto, Addr: h.dst.Addr(), Port: h.dst.Port()}
	if ps.targets[g] {
		return true
	}
	g.Addr, g.V6 = netip.Addr{}, h.dst.Addr().Is6()
	return ps.targets[g] && ps.isLocal(h.dst.Addr())
}

func (ps *packets) isLocal(a netip.Addr) bool {
	return slices.ContainsFunc(ps.local, func(p netip.Prefix) bool { return p.Contains(a) })
}

// see notes the interfaces.
func (ps *packets) see(p *packet, m message) {
	if p.In == "" {
		p.In = ps.kernel.link(m.iif)
	}
	if m.oif != 0 {
		p.Out = ps.kernel.link(m.oif)
	}
}

// find finds the packet of an event: by the number, or by the headers, since a copy has another number.
func (ps *packets) find(m message) *packet {
	if p := ps.byID[m.id]; p != nil && (!m.known || m.header.proto == p.now.proto && m.header.id == p.now.id) {
		return p
	}
	if !m.known {
		return nil
	}
	for _, p := range slices.Backward(ps.open) {
		if p.now.src == m.header.src && p.now.dst == m.header.dst && p.now.id == m.header.id && p.now.proto == m.header.proto {
			ps.byID[m.id] = p
			p.ids = append(p.ids, m.id)
			return p
		}
	}
	return nil
}

// step tells a step.
func (ps *packets) step(p *packet, m message) {
	s := Step{
		Time: p.last, Number: p.Number, Hook: p.Hook,
		Family: familyText(m.family), Table: m.table, Chain: m.chain, Handle: m.handle, Verdict: m.verdictText(),
	}
	if hook := ps.kernel.hook(m.family, m.table, m.chain); hook != "" {
		s.Hook = hook
		p.Hook, p.ended = s.Hook, ""
	}
	switch m.typ {
	case unix.NFT_TRACETYPE_POLICY:
		s.Text = "policy " + s.Verdict
	default:
		s.Text = ps.kernel.rule(m.family, m.table, m.chain, m.handle)
	}
	by := s.Family + " " + s.Table + " " + s.Chain + ": " + s.Text
	switch s.Verdict {
	case "drop":
		p.decided, p.Fate, p.By = true, Dropped, by
	case "queue", "stolen":
		p.Fate, p.By = Queued, by
	}
	if p.steps++; p.steps > mostSteps {
		p.More++
		return
	}
	ps.send(s)
}

// end ends packets that nothing more was seen of.
func (ps *packets) end(now time.Time) {
	for len(ps.open) != 0 {
		done := -1
		for i, p := range ps.open {
			if now.Sub(p.last) > quiet {
				done = i
				break
			}
		}
		if done < 0 {
			return
		}
		ps.finish(ps.open[done])
	}
}

// finish tells the summary of a packet.
func (ps *packets) finish(p *packet) {
	for i, o := range ps.open {
		if o == p {
			ps.open = append(ps.open[:i], ps.open[i+1:]...)
			break
		}
	}
	for _, id := range p.ids {
		if ps.byID[id] == p {
			delete(ps.byID, id)
		}
	}
	if ps.recent = append(ps.recent, p); len(ps.recent) > mostRecent {
		ps.recent = ps.recent[1:]
	}
	p.SrcAfter, p.DstAfter = p.now.src, p.now.dst
	unread := ps.unread
	if p.Hook == "ingress" {
		unread = ps.kernel.flowtables()
	}
	summarize(p, unread)
	ps.send(p.Packet)
}

// answerWait is how long an answer is waited for before it is said that there is none.
const answerWait = time.Second

// tellMissing says of packets that want an answer and have left that none has come.
func (ps *packets) tellMissing(now time.Time) {
	for _, p := range ps.recent {
		if p.answered || p.missed || p.Answer || p.Fate != Left || p.Out == "lo" || now.Sub(p.Time) < answerWait {
			continue
		}
		p.missed = true
		if p.Proto == "tcp" && p.Flags != "syn" || p.Proto != "tcp" && p.Proto != "udp" {
			continue
		}
		text := "no answer from " + address(p.now.dst) + " has come"
		if state := ps.kernel.neighbour(p.Out, p.now.dst.Addr()); state != "" {
			text += ": its neighbour entry of " + p.Out + " is " + state
		}
		ps.send(Later{Time: now, Number: p.Number, Dev: p.Out, Text: text})
	}
}
