// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

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

// NF_NAT_RANGE_*.
const (
	NatIPs = 1 << iota
	NatPorts
	NatRandom
	NatPersistent
	NatFullyRandom
	NatPortOffset
	NatNetmap
)

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

// decodeHarmless decodes the targets that go on.
func decodeHarmless(b *blob, ip6 bool, name string, rev uint32) Target {
	w := &words{}
	switch name {
	case "LOG", "ULOG":
		if name == "ULOG" {
			break
		}
		if p := b.text(2, 30); p != "" {
			w.add("--log-prefix", quoted(p))
		}
		if l := b.u8(0); l != 4 {
			w.add("--log-level", l)
		}
		for i, option := range []string{"tcp-sequence", "tcp-options", "ip-options", "uid", "", "macdecode"} {
			w.on(option != "" && b.u8(1)&(1<<i) != 0, "--log-"+option)
		}
	case "NFLOG":
		if p := b.text(12, 64); p != "" {
			w.add("--nflog-prefix", quoted(p))
		}
		if g := b.u16(4); g != 0 {
			w.add("--nflog-group", g)
		}
		if n := b.u32(0); b.u16(8)&1 != 0 {
			w.add("--nflog-size", n)
		} else if n != 0 {
			w.add("--nflog-range", n)
		}
		if t := b.u16(6); t != 0 {
			w.add("--nflog-threshold", t)
		}
	case "TRACE":
	case "TCPMSS":
		if m := b.u16(0); m == 1<<16-1 {
			w.add("--clamp-mss-to-pmtu")
		} else {
			w.add("--set-mss", m)
		}
	case "TCPOPTSTRIP":
		var opts []string
		for i := range 256 {
			if b.u32(i/32*4)&(1<<(i%32)) != 0 {
				opts = append(opts, strconv.Itoa(i))
			}
		}
		w.add("--strip-options", strings.Join(opts, ","))
	case "ECN":
		w.on(b.u8(0)&1 != 0 && b.u8(1) == 0, "--ecn-tcp-remove")
		w.on(b.u8(0)&0x30 != 0, "--ecn-tcp-remove")
	case "CHECKSUM":
		w.on(b.u8(0)&1 != 0, "--checksum-fill")
	case "AUDIT":
		if t := int(b.u8(0)); t < 3 {
			w.add("--type", []string{"accept", "drop", "reject"}[t])
		}
	case "SECMARK":
		at := 8
		if rev == 1 {
			at = 1
		}
		w.add("--selctx", b.text(at, 256))
	case "CONNSECMARK":
		if m := b.u8(0); m == 1 {
			w.add("--save")
		} else {
			w.add("--restore")
		}
	case "TEE":
		w.add("--gateway", b.addr(0, ip6))
		if o := b.text(16, 16); o != "" {
			w.add("--oif", o)
		}
	case "IDLETIMER":
		w.add("--timeout", b.u32(0))
		w.add("--label", b.text(4, 28))
		w.on(rev == 1 && b.u8(33) != 0, "--alarm")
	case "RATEEST":
		interval, log := int8(b.u8(16)), b.u8(17)
		w.add("--rateest-name", b.text(0, 16))
		w.add("--rateest-interval", estimator(250000<<uint(clampInt(int(interval)+2, 0, 31)))) //nolint:gosec // bounded
		w.add("--rateest-ewmalog", estimator(ewma(interval, log)))
	case "LED":
		w.add("--led-trigger-id", quoted(strings.TrimPrefix(b.text(0, 27), "netfilter-")))
		switch d := b.u32(28); {
		case d == 1<<32-1:
			w.add("--led-delay", "inf")
		case d != 0:
			w.add("--led-delay", d)
		}
		w.on(b.flag(27), "--led-always-blink")
	default:
		return nil
	}
	return Harmless{options: w.String()}
}

func clampInt(n, low, high int) int { return min(max(n, low), high) }

// ewma is the time constant of an estimator in microseconds.
func ewma(interval int8, log uint8) int {
	i := clampInt(int(interval)+2, 0, 31)
	return 250000 << i << clampInt(int(log), 0, 8) // a close one: iptables computes with floating point
}

// estimator is a time in microseconds with its unit.
func estimator(us int) string {
	switch {
	case us >= 1000000:
		return fmt.Sprintf("%.1fs", float64(us)/1e6)
	case us >= 1000:
		return fmt.Sprintf("%.1fms", float64(us)/1e3)
	}
	return fmt.Sprintf("%dus", us)
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

func decodeNat(b *blob, ip6 bool, name string, rev uint32) Target {
	t := Nat{Kind: name}
	wide := ip6 // struct nf_nat_range, else struct nf_nat_ipv4_multi_range_compat
	if name == "DNAT" || name == "SNAT" {
		wide = rev > 0
		if rev > 2 || !wide && ip6 {
			return nil
		}
	} else if rev > 1 {
		return nil
	}
	if wide {
		t.Flags, t.Min, t.Max = b.u32(0), b.addr(4, ip6), b.addr(20, ip6)
		t.PortMin, t.PortMax = b.be16(36), b.be16(38)
		if rev == 2 {
			t.PortBase = b.be16(40)
		}
		return t
	}
	if b.u32(0) != 1 {
		return nil
	}
	t.Flags, t.Min, t.Max, t.PortMin, t.PortMax = b.u32(4), b.addr4(8), b.addr4(12), b.be16(16), b.be16(18)
	return t
}

// Options returns where to.
func (t Nat) Options() string {
	w := &words{}
	ports := ""
	if t.Flags&NatPorts != 0 {
		ports = strconv.Itoa(int(t.PortMin))
		if t.PortMax != t.PortMin {
			ports += "-" + strconv.Itoa(int(t.PortMax))
		}
		if t.Flags&NatPortOffset != 0 {
			ports += "/" + strconv.Itoa(int(t.PortBase))
		}
	}
	to := ""
	if t.Flags&NatIPs != 0 {
		to = t.Min.String()
		if t.Max != t.Min {
			to += "-" + t.Max.String()
		}
		if ports != "" && t.Min.Is6() {
			to = "[" + to + "]"
		}
	}
	switch t.Kind {
	case "DNAT", "SNAT":
		if ports != "" {
			to += ":" + ports
		}
		option := "--to-destination"
		if t.Kind == "SNAT" {
			option = "--to-source"
		}
		if to != "" {
			w.add(option, to)
		}
	case "NETMAP":
		mask := t.Mask()
		if n, ok := prefixLen(mask); ok {
			w.add("--to", t.Min.String()+"/"+strconv.Itoa(n))
		} else {
			w.add("--to", t.Min.String()+"/"+mask.String())
		}
	default:
		if ports != "" {
			w.add("--to-ports", ports)
		}
	}
	w.on(t.Flags&NatRandom != 0, "--random")
	w.on(t.Flags&NatFullyRandom != 0, "--random-fully")
	w.on(t.Flags&NatPersistent != 0, "--persistent")
	return w.String()
}

// Mask is the mask of the network of NETMAP.
func (t Nat) Mask() netip.Addr {
	x, y := t.Min.AsSlice(), t.Max.AsSlice()
	for i := range x {
		x[i] = ^(x[i] ^ y[i])
	}
	mask, _ := netip.AddrFromSlice(x)
	return mask
}

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

func decodeHmark(b *blob, ip6 bool) Target {
	w := &words{}
	flags := b.u32(40)
	has := func(bit uint) bool { return flags&(1<<bit) != 0 }
	mask := func(a netip.Addr) string {
		if n, ok := prefixLen(a); ok {
			return strconv.Itoa(n)
		}
		return a.String()
	}
	if has(0) {
		w.add("--hmark-src-prefix", mask(b.addr(0, ip6)))
	}
	if has(1) {
		w.add("--hmark-dst-prefix", mask(b.addr(16, ip6)))
	}
	port := func(bit uint, option string, at int, format string) {
		if has(bit) {
			w.add(option, fmt.Sprintf(format, b.be16(at)))
		}
	}
	port(4, "--hmark-sport", 36, "%d")
	port(5, "--hmark-dport", 38, "%d")
	port(6, "--hmark-sport-mask", 32, "0x%04x")
	port(7, "--hmark-dport-mask", 34, "0x%04x")
	if has(8) {
		w.add("--hmark-proto-mask", fmt.Sprintf("%#x", b.u16(44)))
	}
	if has(9) {
		w.add("--hmark-rnd", fmt.Sprintf("0x%08x", b.u32(48)))
	}
	if has(10) {
		w.add("--hmark-mod", b.u32(52))
	}
	if has(11) {
		w.add("--hmark-offset", b.u32(56))
	}
	if has(12) {
		w.add("--hmark-tuple", "ct")
	}
	return Marks{options: w.String()}
}

// decodeARPMangle decodes struct arpt_mangle.
func decodeARPMangle(b *blob) Target {
	w := &words{}
	flags, verdict := b.u8(40), int32(b.u32(44)) //nolint:gosec // a signed number of the kernel
	if flags&4 != 0 {
		w.add("--mangle-ip-s", b.addr4(32))
	}
	if flags&8 != 0 {
		w.add("--mangle-ip-d", b.addr4(36))
	}
	if flags&1 != 0 {
		w.add("--mangle-mac-s", macText(b.at(0, 6)))
	}
	if flags&2 != 0 {
		w.add("--mangle-mac-d", macText(b.at(16, 6)))
	}
	switch verdict {
	case nfDrop:
		w.add("--mangle-target", "DROP")
	case xtContinue:
		w.add("--mangle-target", "CONTINUE")
	}
	return Taking{Text: "mangle of arptables, which changes ARP packets", options: w.String()}
}

// xtContinue is the verdict XT_CONTINUE.
const xtContinue = -1

func decodeClusterIP(b *blob) Target {
	w := &words{}
	w.on(b.u32(0)&1 != 0, "--new")
	if mode := int(b.u32(48)); mode < 3 {
		w.add("--hashmode", []string{"sourceip", "sourceip-sourceport", "sourceip-sourceport-destport"}[mode])
	}
	w.add("--clustermac", macText(b.at(4, 6)))
	w.add("--total-nodes", b.u16(10))
	w.add("--local-node", b.u16(14))
	w.add("--hash-init", b.u32(52))
	return Taking{Text: "CLUSTERIP, which leaves some clients to other hosts", options: w.String()}
}

// Options returns what is logged or changed.
func (t Harmless) Options() string { return t.options }

// Options returns options of TCP.
func (t Synproxy) Options() string { return t.options }

// Options returns what is hashed.
func (t Marks) Options() string { return t.options }

// Options returns what is done.
func (t Taking) Options() string { return t.options }
