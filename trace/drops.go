// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf"
	"github.com/nftnat/nftnat/internal/netns"
)

// openDrops loads the program that tells of dropped packets, if it may, and says which of it there is.
func (t *Tracer) openDrops() error {
	inode, err := netns.Inode("")
	if t.opts.NetNS != 0 {
		var stat unix.Stat_t
		err = unix.Fstat(t.opts.NetNS, &stat)
		inode = stat.Ino
	}
	if err != nil {
		return fmt.Errorf("identify the network namespace: %w", err)
	}
	if t.opts.NoBPF {
		t.notes = append(t.notes, "without eBPF: why the kernel drops a packet is not known")
		return nil
	}
	d, err := bpf.OpenDrops(inode)
	if err != nil {
		why := err.Error()
		if errors.Is(err, fs.ErrPermission) {
			why = "it needs CAP_BPF and CAP_PERFMON"
		}
		t.notes = append(t.notes, "no eBPF: why the kernel drops a packet is not known ("+why+")")
		return nil
	}
	t.drops = d
	text := "eBPF tells why the kernel drops a packet"
	if !d.HasReasons() {
		text = "eBPF tells where the kernel drops a packet; why, only kernels from 5.17 on tell"
	}
	t.notes = append(t.notes, text)
	return nil
}

// watch asks for dropped packets of exactly these ports, by the protocol.
func (t *Tracer) watch(ports map[uint16]uint32) error {
	if t.drops == nil {
		return nil
	}
	changed := map[uint16]uint32{}
	for port := range t.watched {
		if ports[port] == 0 {
			changed[port] = 0
		}
	}
	for port, protocols := range ports {
		if t.watched[port] != protocols {
			changed[port] = protocols
		}
	}
	if len(changed) != 0 {
		if err := t.drops.WatchAll(changed); err != nil {
			return err
		}
	}
	t.watched = ports
	return nil
}

// translated asks for dropped packets of one more port: one that a packet was translated to.
func (t *Tracer) translated(proto uint8, port uint16) {
	bit := protocolBit(proto)
	if t.drops == nil || bit == 0 || t.watched[port]&bit != 0 {
		return
	}
	t.watched[port] |= bit
	if err := t.drops.Watch(port, t.watched[port]); err != nil && t.packets.err == nil {
		t.packets.err = err
	}
}

func protocolBit(proto uint8) uint32 {
	switch proto {
	case unix.IPPROTO_TCP:
		return bpf.TCP
	case unix.IPPROTO_UDP:
		return bpf.UDP
	}
	return 0
}

// dropped is a packet that the kernel has dropped.
type dropped struct {
	at             time.Time
	header         header
	reason         string
	function, link string
}

// waiting is a packet that was dropped, before its events are there.
type waiting struct {
	drop   bpf.Drop
	header header
	at     time.Time
}

// Bounds: dropped packets that wait for their events, and those without events that are told of, in a second.
const (
	mostDropped = 1024
	mostUnseen  = 100
)

// eventDelay is how long the events of a dropped packet may be behind it: they come by another socket.
const eventDelay = 20 * time.Millisecond

// dropped takes a packet that the kernel has dropped.
func (ps *packets) dropped(d bpf.Drop, now time.Time) {
	h, ok := parseHeader(d.Headers, nil)
	if !ok || harmless(d.Reason) {
		return
	}
	if len(ps.drops) >= mostDropped {
		ps.unseen++
		return
	}
	ps.drops = append(ps.drops, waiting{d, h, now})
}

// harmless reports whether a reason is none: the packet had come to a socket, which was closed or had its data already, or
// it is a copy for who listens on an interface.
func harmless(reason string) bool {
	switch reason {
	case "QUEUE_PURGE", "SOCKET_CLOSE", "TCP_OLD_ACK", "TCP_OLD_DATA", "TCP_OFOMERGE", "PACKET_SOCK_ERROR", "DUP_FRAG":
		return true
	}
	return false
}

// matchDrops finds the packets of those that were dropped.
func (ps *packets) matchDrops(now time.Time) {
	for len(ps.drops) != 0 && now.Sub(ps.drops[0].at) >= eventDelay {
		w := ps.drops[0]
		ps.drops = ps.drops[1:]
		ps.matchDrop(w)
	}
}

func (ps *packets) matchDrop(w waiting) {
	d := &dropped{at: w.at, header: w.header, reason: w.drop.Reason, link: ps.kernel.link(w.drop.Interface)}
	if p := ps.latest(func(p *packet) bool { return p.is(w.header) }); p == nil {
		if !ps.concerns(w.header) || !ps.admit() {
			return
		}
		d.function = ps.kernel.function(w.drop.Address)
		ps.withoutEvents(d)
	} else if p.Text == "" { // on its way
		d.function = ps.kernel.function(w.drop.Address)
		if !queued(d.function) {
			p.drop = d
		}
	} else if p.Fate != Dropped { // else its summary says so
		if d.function = ps.kernel.function(w.drop.Address); queued(d.function) {
			return
		}
		p.Fate = Dropped
		ps.send(Later{Time: d.at, Number: p.Number, Reason: d.reason, Function: d.function, Dev: d.link, Text: "then dropped: " + d.text()})
	}
}

// queued reports whether a function frees what had come to a socket: before Linux 6.10, the reason does not say so.
func queued(function string) bool {
	return function == "sk_stream_kill_queues" || strings.HasPrefix(function, "skb_queue_purge")
}

// latest finds the last packet that a condition holds for, of those on their way and the recent ones.
func (ps *packets) latest(is func(*packet) bool) *packet {
	for _, list := range [][]*packet{ps.open, ps.recent} {
		for _, p := range slices.Backward(list) {
			if is(p) {
				return p
			}
		}
	}
	return nil
}

// admit reports whether one more packet without events may be told of in this second.
func (ps *packets) admit() bool {
	if ps.unseenTold >= mostUnseen {
		ps.unseen++
		return false
	}
	ps.unseenTold++
	return true
}

// is reports whether the headers are those of the packet, as it came or as it was seen last.
func (p *packet) is(h header) bool {
	return p.first.proto == h.proto && p.first.id == h.id &&
		(p.first.src == h.src || p.now.src == h.src) && (p.first.dst == h.dst || p.now.dst == h.dst)
}

// concerns reports whether headers are of a packet that was asked for, or of an answer to one that was seen.
func (ps *packets) concerns(h header) bool { return ps.asked(h) || ps.answered(h) != nil }

// answered finds the packet that headers are an answer to, an error of ICMP included.
func (ps *packets) answered(h header) *packet {
	if h.proto == unix.IPPROTO_ICMP || h.proto == unix.IPPROTO_ICMPV6 {
		return ps.latest(func(p *packet) bool { return !p.Answer && p.first.src.Addr() == h.dst.Addr() })
	}
	return ps.latest(func(p *packet) bool {
		return !p.Answer && p.first.proto == h.proto &&
			(p.first.src == h.dst || p.now.src == h.dst) && (p.first.dst == h.src || p.now.dst == h.src)
	})
}

// withoutEvents tells of a packet that was dropped before any rule, or that was not marked because there were too
// many.
func (ps *packets) withoutEvents(d *dropped) {
	ps.count++
	p := Packet{
		Begin: beginOf(d.header, ps.count, d.at), SrcAfter: d.header.src, DstAfter: d.header.dst,
		Fate: Dropped, Reason: d.reason, Function: d.function, Dev: d.link, Text: "dropped, and seen by no rule: " + d.text(),
	}
	p.In, p.Answer = d.link, !ps.asked(d.header)
	ps.send(p.Begin)
	ps.send(p)
}

// function names where the kernel has dropped a packet.
func (t *Tracer) function(address uint64) string { return t.drops.Function(address) }
