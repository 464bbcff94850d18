// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

// Target is the value of a target. Options are its options as `iptables -S` prints them.
type Target interface{ Options() string }

// The targets that decide or change something that rules ask for.
type (
	// Reject drops and answers.
	Reject struct{ With string }
	// Queue gives the packet to a program; with Bypass it is accepted if there is none.
	Queue struct {
		From, To uint16
		Bypass   bool
		FanOut   bool
	}
	// SetMark sets the packet's mark: (mark &^ Mask) ^ Mark.
	SetMark struct{ Mark, Mask uint32 }
	// SetConnmark changes the connection's mark, or the packet's from it.
	SetConnmark struct {
		Mark, Mask, PacketMask uint32
		Mode                   uint8 // 0 set, 1 save, 2 restore
		ShiftRight             bool
		Shift                  uint8
	}
	// Track is the targets CT and NOTRACK.
	Track struct {
		Notrack bool
		Alias   bool // iptables prints it as the target NOTRACK
		Zone    uint16
		// ZoneDirs: bit 0 is of the original direction, bit 1 of replies. Zero: both.
		ZoneDirs uint8
		options  string
	}
	// Nat is the targets DNAT, SNAT, MASQUERADE, REDIRECT and NETMAP.
	Nat struct {
		Kind             string // the target's name
		Min, Max         netip.Addr
		PortMin, PortMax uint16
		PortBase         uint16
		Flags            uint32 // NF_NAT_RANGE_*
	}
	// SetTTL changes the TTL or hop limit. Mode: 0 set, 1 add, 2 subtract.
	SetTTL struct {
		IP6   bool
		Mode  uint8
		Value uint8
	}
	// SetTOS changes the TOS byte or traffic class: (tos &^ Mask) ^ Value; DSCP its upper 6 bits.
	SetTOS struct {
		Value, Mask uint8
		DSCP        bool
	}
	// Classify sets the packet's priority.
	Classify struct{ Priority uint32 }
	// AddSet is the target SET, which changes sets of ipset.
	AddSet struct {
		// MapsMark is set if the packet's mark may come from the set.
		MapsMark bool
		options  string
		sets     []setRef
	}
	// Harmless goes on with the packet, and changes nothing that rules ask for but what is not known anyway.
	Harmless struct{ options string }
	// Marks goes on with the packet, with a mark that cannot be known (HMARK).
	Marks struct{ options string }
	// Synproxy answers to connections of TCP in place of the destination.
	Synproxy struct{ options string }
	// Taking may keep the packet or answer it itself: Text says what does (TPROXY, CLUSTERIP).
	Taking struct{ Text, options string }
)

type setRef struct {
	option     string
	index      uint16
	dim, flags uint8
}

// DecodeTarget returns the value of a target.
func DecodeTarget(family rules.Family, t rules.Target) Target {
	b := &blob{data: t.Info}
	if family == unix.NFPROTO_BRIDGE {
		if v := decodeBridgeTarget(b, t.Name); v != nil && !b.short {
			return v
		}
	}
	if v := decodeTarget(b, family == unix.NFPROTO_IPV6, t.Name, t.Rev); v != nil && !b.short {
		return v
	}
	return Unknown{Name: t.Name, Rev: t.Rev, Len: len(t.Info)}
}

func decodeTarget(b *blob, ip6 bool, name string, rev uint32) Target {
	w := &words{}
	switch name {
	case "REJECT":
		return decodeReject(b, ip6)
	case "NFQUEUE":
		return decodeQueue(b, rev)
	case "MARK":
		if rev != 2 {
			return nil
		}
		return SetMark{Mark: b.u32(0), Mask: b.u32(4)}
	case "CONNMARK":
		return decodeConnmark(b, rev)
	case "CT", "NOTRACK":
		return decodeTrack(b, name, rev)
	case "DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP":
		return decodeNat(b, ip6, name, rev)
	case "TTL", "HL":
		return SetTTL{IP6: name == "HL", Mode: b.u8(0), Value: b.u8(1)}
	case "DSCP":
		return SetTOS{Value: b.u8(0) << 2, Mask: 0xfc, DSCP: true}
	case "TOS":
		if rev != 1 {
			return nil
		}
		return SetTOS{Value: b.u8(0), Mask: b.u8(1)}
	case "CLASSIFY":
		return Classify{Priority: b.u32(0)}
	case "SET":
		return decodeSetTarget(b, rev)
	case "HMARK":
		return decodeHmark(b, ip6)
	case "SYNPROXY":
		o := b.u8(0)
		w.on(o&4 != 0, "--sack-perm")
		w.on(o&8 != 0, "--timestamp")
		if o&2 != 0 {
			w.add("--wscale", b.u8(1))
		}
		if o&1 != 0 {
			w.add("--mss", b.u16(2))
		}
		w.on(o&16 != 0, "--ecn")
		return Synproxy{options: w.String()}
	case "TPROXY":
		addr, port := b.addr4(8), b.be16(12)
		if rev == 1 {
			addr, port = b.addr(8, ip6), b.be16(24)
		}
		w.add("--on-port", port)
		w.add("--on-ip", addr)
		w.add("--tproxy-mark", fmt.Sprintf("%#x/%#x", b.u32(4), b.u32(0)))
		return Taking{Text: fmt.Sprintf("TPROXY, which gives packets to a local socket of port %d", port), options: w.String()}
	case "CLUSTERIP":
		return decodeClusterIP(b)
	case "mangle": // of arptables
		return decodeARPMangle(b)
	case "DNPT", "SNPT":
		w.add("--src-pfx", b.addr6(0).String()+"/"+strconv.Itoa(int(b.u8(32))))
		w.add("--dst-pfx", b.addr6(16).String()+"/"+strconv.Itoa(int(b.u8(33))))
		return Taking{Text: name + ", which translates prefixes", options: w.String()}
	}
	return decodeHarmless(b, ip6, name, rev)
}

func decodeReject(b *blob, ip6 bool) Target {
	names := []string{
		"icmp-net-unreachable", "icmp-host-unreachable", "icmp-proto-unreachable", "icmp-port-unreachable", "echo-reply",
		"icmp-net-prohibited", "icmp-host-prohibited", "tcp-reset", "icmp-admin-prohibited",
	}
	if ip6 {
		names = []string{
			"icmp6-no-route", "icmp6-adm-prohibited", "icmp6-not-neighbour", "icmp6-addr-unreachable",
			"icmp6-port-unreachable", "echo-reply", "tcp-reset", "icmp6-policy-fail", "icmp6-reject-route",
		}
	}
	n := int(b.u32(0))
	if n < 0 || n >= len(names) {
		return nil
	}
	return Reject{With: names[n]}
}

// Options returns the answer.
func (t Reject) Options() string { return "--reject-with " + t.With }

func decodeQueue(b *blob, rev uint32) Target {
	t := Queue{From: b.u16(0), To: b.u16(0)}
	if rev >= 1 {
		t.To += max(b.u16(2), 1) - 1
	}
	if rev >= 2 {
		f := b.u16(4)
		t.Bypass, t.FanOut = f&1 != 0, f&2 != 0
	}
	if rev > 3 {
		return nil
	}
	return t
}

// Options returns the queues.
func (t Queue) Options() string {
	w := &words{}
	if t.From != t.To {
		w.add("--queue-balance", span(t.From, t.To))
	} else {
		w.add("--queue-num", t.From)
	}
	w.on(t.Bypass, "--queue-bypass")
	w.on(t.FanOut, "--queue-cpu-fanout")
	return w.String()
}

// Options returns mark and mask.
func (t SetMark) Options() string { return fmt.Sprintf("--set-xmark %#x/%#x", t.Mark, t.Mask) }

func decodeConnmark(b *blob, rev uint32) Target {
	t := SetConnmark{Mark: b.u32(0), Mask: b.u32(4), PacketMask: b.u32(8)}
	switch rev {
	case 1:
		t.Mode = b.u8(12)
	case 2:
		t.ShiftRight, t.Shift, t.Mode = b.u8(12) != 0, b.u8(13), b.u8(14)
	default:
		return nil
	}
	return t
}

// Options returns what is done.
func (t SetConnmark) Options() string {
	w := &words{}
	masks := func() string { return fmt.Sprintf("%#x", t.Mask) }
	switch t.Mode {
	case 0:
		w.add("--set-xmark", fmt.Sprintf("%#x/%#x", t.Mark, t.Mask))
	case 1:
		w.add("--save-mark", "--nfmask", fmt.Sprintf("%#x", t.PacketMask), "--ctmask", masks())
	case 2:
		w.add("--restore-mark", "--nfmask", fmt.Sprintf("%#x", t.PacketMask), "--ctmask", masks())
	}
	if t.Shift != 0 {
		side := "--left-shift-mark"
		if t.ShiftRight {
			side = "--right-shift-mark"
		}
		w.add(side, t.Shift)
	}
	return w.String()
}

func decodeTrack(b *blob, name string, rev uint32) Target {
	if name == "NOTRACK" {
		return Track{Notrack: true, Alias: true}
	}
	if rev > 2 {
		return nil
	}
	flags := b.u16(0)
	t := Track{Notrack: flags&1 != 0, Alias: flags&2 != 0, Zone: b.u16(2), ZoneDirs: uint8(flags >> 2 & 3)}
	w := &words{}
	w.on(t.Notrack && !t.Alias, "--notrack")
	if h := b.text(12, 16); h != "" {
		w.add("--helper", h)
	}
	if rev >= 1 {
		if p := b.text(28, 32); p != "" {
			w.add("--timeout", p)
		}
	}
	if e := b.u32(4); e != 0 {
		names := []bitName{
			{1, "new"}, {2, "related"}, {4, "destroy"}, {8, "reply"}, {16, "assured"}, {32, "protoinfo"},
			{64, "helper"}, {128, "mark"}, {256, "natseqinfo"}, {512, "secmark"},
		}
		w.add("--ctevents", joined(e, names))
	}
	if e := b.u32(8); e != 0 {
		w.add("--expevents", joined(e, []bitName{{1, "new"}}))
	}
	zone := "--zone"
	if flags&4 != 0 {
		zone = "--zone-orig"
	}
	if flags&8 != 0 {
		zone = "--zone-reply"
	}
	if flags&16 != 0 {
		w.add(zone, "mark")
	} else if t.Zone != 0 {
		w.add(zone, t.Zone)
	}
	t.options = w.String()
	return t
}

// Options returns what is set.
func (t Track) Options() string { return t.options }

// Options returns the change.
func (t SetTTL) Options() string {
	name := "--ttl"
	if t.IP6 {
		name = "--hl"
	}
	suffix := [...]string{"-set", "-inc", "-dec"}
	return fmt.Sprintf("%s%s %d", name, suffix[min(t.Mode, 2)], t.Value)
}

// Options returns the value.
func (t SetTOS) Options() string {
	if t.DSCP {
		return fmt.Sprintf("--set-dscp 0x%02x", t.Value>>2)
	}
	return fmt.Sprintf("--set-tos 0x%02x/0x%02x", t.Value, t.Mask)
}

// Options returns the class.
func (t Classify) Options() string {
	return fmt.Sprintf("--set-class %04x:%04x", t.Priority>>16, t.Priority&0xffff)
}

func decodeSetTarget(b *blob, rev uint32) Target {
	if rev < 1 || rev > 3 {
		return nil
	}
	t := AddSet{}
	options := []string{"--add-set", "--del-set", "--map-set"}
	if rev < 3 {
		options = options[:2]
	}
	for i, option := range options {
		if index := b.u16(4 * i); index != 1<<16-1 {
			t.sets = append(t.sets, setRef{option, index, b.u8(4*i + 2), b.u8(4*i + 3)})
		}
	}
	if rev == 1 {
		return t
	}
	at := 4 * len(options)
	flags, timeout := b.u32(at), b.u32(at+4)
	w := &words{}
	w.on(flags&1 != 0, "--exist")
	if timeout != 1<<32-1 {
		w.add("--timeout", timeout)
	}
	w.on(flags&(1<<8) != 0, "--map-mark")
	w.on(flags&(1<<9) != 0, "--map-prio")
	w.on(flags&(1<<10) != 0, "--map-queue")
	t.MapsMark, t.options = flags&(1<<8) != 0, w.String()
	return t
}

// Options returns the sets, by their numbers.
func (t AddSet) Options() string {
	return t.named(func(i uint16) string { return "#" + strconv.Itoa(int(i)) })
}

func (t AddSet) named(name func(uint16) string) string {
	w := &words{}
	for _, s := range t.sets {
		w.add(s.option, name(s.index), directions(s.dim, s.flags))
	}
	if t.options != "" {
		w.add(t.options)
	}
	return w.String()
}
