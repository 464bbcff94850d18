// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ctStates are the bits XT_CONNTRACK_STATE_*, in the order that iptables prints them.
func ctStates() []bitName {
	return []bitName{
		{1, "INVALID"}, {8, "NEW"}, {4, "RELATED"}, {2, "ESTABLISHED"},
		{256, "UNTRACKED"}, {64, "SNAT"}, {128, "DNAT"},
	}
}

// Options returns the options of conntrack or state.
func (m Conntrack) Options() string {
	w := &words{}
	not := func(flag uint16) bool { return m.Invert&flag != 0 }
	if m.Flags&CTState != 0 {
		option := "--ctstate"
		if m.Alias {
			option = "--state"
		}
		w.not(not(CTState), option, joined(uint32(m.State), ctStates()))
	}
	if m.Flags&CTProto != 0 {
		w.not(not(CTProto), "--ctproto", m.Proto)
	}
	for _, a := range []struct {
		flag   uint16
		option string
		value  AddrMask
	}{
		{CTOrigSrc, "--ctorigsrc", m.OrigSrc},
		{CTOrigDst, "--ctorigdst", m.OrigDst},
		{CTReplSrc, "--ctreplsrc", m.ReplSrc},
		{CTReplDst, "--ctrepldst", m.ReplDst},
	} {
		if m.Flags&a.flag != 0 {
			w.not(not(a.flag), a.option, hostOr(a.value.Addr, a.value.Mask))
		}
	}
	for _, p := range []struct {
		flag   uint16
		option string
		value  PortRange
	}{
		{CTOrigSrcPort, "--ctorigsrcport", m.OrigSrcPort},
		{CTOrigDstPort, "--ctorigdstport", m.OrigDstPort},
		{CTReplSrcPort, "--ctreplsrcport", m.ReplSrcPort},
		{CTReplDstPort, "--ctrepldstport", m.ReplDstPort},
	} {
		if m.Flags&p.flag != 0 {
			w.not(not(p.flag), p.option, p.value)
		}
	}
	if m.Flags&CTStatus != 0 {
		text := joined(uint32(m.Status), []bitName{{1, "EXPECTED"}, {2, "SEEN_REPLY"}, {4, "ASSURED"}, {8, "CONFIRMED"}})
		if text == "" {
			text = "NONE"
		}
		w.not(not(CTStatus), "--ctstatus", text)
	}
	if m.Flags&CTExpires != 0 {
		w.not(not(CTExpires), "--ctexpire", span(m.ExpiresMin, m.ExpiresMax))
	}
	if m.Flags&CTDirection != 0 {
		if not(CTDirection) {
			w.add("--ctdir", "REPLY")
		} else {
			w.add("--ctdir", "ORIGINAL")
		}
	}
	return w.String()
}

// Options returns the states.
func (m State) Options() string {
	return "--state " + joined(m.Mask, []bitName{
		{1, "INVALID"}, {8, "NEW"}, {4, "RELATED"}, {2, "ESTABLISHED"}, {64, "UNTRACKED"},
	})
}

// AddrTypeName is the name of a type of an address, RTN_*.
func AddrTypeName(rtn int) string {
	names := [...]string{
		"UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST", "BLACKHOLE", "UNREACHABLE", "PROHIBIT",
		"THROW", "NAT", "XRESOLVE",
	}
	if rtn < 0 || rtn >= len(names) {
		return strconv.Itoa(rtn)
	}
	return names[rtn]
}

// addrTypes are the names of bits.
func addrTypes(set uint16) string {
	var names []string
	for i := range 16 {
		if set&(1<<i) != 0 {
			names = append(names, AddrTypeName(i))
		}
	}
	return strings.Join(names, ",")
}

// Options returns the types.
func (m AddrType) Options() string {
	w := &words{}
	if m.Src != 0 {
		w.not(m.NotSrc, "--src-type", addrTypes(m.Src))
	}
	if m.Dst != 0 {
		w.not(m.NotDst, "--dst-type", addrTypes(m.Dst))
	}
	w.on(m.LimitIn, "--limit-iface-in")
	w.on(m.LimitOut, "--limit-iface-out")
	return w.String()
}

// Options returns the ports.
func (m Multiport) Options() string {
	w := &words{}
	ports := make([]string, len(m.Ports))
	for i, p := range m.Ports {
		ports[i] = p.String()
	}
	w.not(m.Not, []string{"--sports", "--dports", "--ports"}[m.Side], strings.Join(ports, ","))
	return w.String()
}

// ports appends options for source and destination.
func (w *words) ports(src, dst PortRange, notSrc, notDst bool) {
	if !src.All() {
		w.not(notSrc, "--sport", src)
	}
	if !dst.All() {
		w.not(notDst, "--dport", dst)
	}
}

// tcpFlags are the names of flags, NONE or ALL.
func tcpFlags(flags uint8) string {
	if flags == 0 {
		return "NONE"
	}
	return joined(uint32(flags), []bitName{{1, "FIN"}, {2, "SYN"}, {4, "RST"}, {8, "PSH"}, {16, "ACK"}, {32, "URG"}})
}

// Options returns the ports, flags and option.
func (m TCP) Options() string {
	w := &words{}
	w.ports(m.Src, m.Dst, m.NotSrc, m.NotDst)
	if m.Option != 0 || m.NotOption {
		w.not(m.NotOption, "--tcp-option", m.Option)
	}
	if m.FlagMask != 0 || m.NotFlags {
		w.not(m.NotFlags, "--tcp-flags", tcpFlags(m.FlagMask), tcpFlags(m.Flags))
	}
	return w.String()
}

// Options returns the ports.
func (m UDP) Options() string {
	w := &words{}
	w.ports(m.Src, m.Dst, m.NotSrc, m.NotDst)
	return w.String()
}

// Any reports whether every packet matches (of ICMP for IPv4 alone).
func (m ICMP) Any() bool { return !m.IP6 && m.Type == 255 }

// Options returns type and code.
func (m ICMP) Options() string {
	w := &words{}
	option, value := "--icmp-type", strconv.Itoa(int(m.Type))
	if m.IP6 {
		option = "--icmpv6-type"
	}
	if m.CodeMin != 0 || m.CodeMax != 255 {
		value += "/" + strconv.Itoa(int(m.CodeMin))
	}
	if m.Any() {
		value = "any"
	}
	w.not(m.Not, option, value)
	return w.String()
}

// Options returns the comment.
func (m Comment) Options() string { return "--comment " + quoted(m.Text) }

// Options returns mark and mask.
func (m Mark) Options() string {
	w := &words{}
	w.not(m.Not, "--mark", hex(m.Mark, m.Mask))
	return w.String()
}

// Options returns mark and mask.
func (m Connmark) Options() string { return Mark(m).Options() }

// directions are src and dst for each field of a set.
func directions(dim, flags uint8) string {
	var out []string
	for i := range dim {
		side := "dst"
		if flags&(2<<i) != 0 {
			side = "src"
		}
		out = append(out, side)
	}
	return strings.Join(out, ",")
}

// Options returns the set, by its number: a Printer knows names.
func (m Set) Options() string { return m.named("#" + strconv.Itoa(int(m.Index))) }

func (m Set) named(name string) string {
	w := &words{}
	w.not(m.Not, "--match-set", name, directions(m.Dim, m.Flags))
	if m.options != "" {
		w.add(m.options)
	}
	return w.String()
}

// Options returns the address.
func (m MAC) Options() string {
	w := &words{}
	w.not(m.Not, "--mac-source", macText(m.Addr[:]))
	return w.String()
}

// macText is an address as 00:11:22:33:44:55.
func macText(b []byte) string {
	out := make([]string, len(b))
	for i, x := range b {
		out[i] = fmt.Sprintf("%02x", x)
	}
	return strings.Join(out, ":")
}

// Options returns the ranges.
func (m IPRange) Options() string {
	w := &words{}
	if m.SrcMin.IsValid() {
		w.not(m.NotSrc, "--src-range", m.SrcMin.String()+"-"+m.SrcMax.String())
	}
	if m.DstMin.IsValid() {
		w.not(m.NotDst, "--dst-range", m.DstMin.String()+"-"+m.DstMax.String())
	}
	return w.String()
}

// XT_OWNER_*.
const (
	OwnerUID = 1 << iota
	OwnerGID
	OwnerSocket
	OwnerSupplGroups
)

// Options returns users and groups.
func (m Owner) Options() string {
	w := &words{}
	dash := func(a, b uint32) string { return strings.Replace(span(a, b), ":", "-", 1) }
	if m.Match&OwnerSocket != 0 {
		w.not(m.Invert&OwnerSocket != 0, "--socket-exists")
	}
	if m.Match&OwnerUID != 0 {
		w.not(m.Invert&OwnerUID != 0, "--uid-owner", dash(m.UIDMin, m.UIDMax))
	}
	if m.Match&OwnerGID != 0 {
		w.not(m.Invert&OwnerGID != 0, "--gid-owner", dash(m.GIDMin, m.GIDMax))
	}
	w.on(m.Match&OwnerSupplGroups != 0, "--suppl-groups")
	return w.String()
}

// XT_PHYSDEV_OP_*.
const (
	PhysIn = 1 << iota
	PhysOut
	PhysBridged
	PhysIsIn
	PhysIsOut
)

// Options returns interfaces.
func (m PhysDev) Options() string {
	w := &words{}
	not := func(flag uint8) bool { return m.Invert&flag != 0 }
	if m.Flags&PhysIsIn != 0 {
		w.not(not(PhysIsIn), "--physdev-is-in")
	}
	if m.Flags&PhysIn != 0 {
		w.not(not(PhysIn), "--physdev-in", ifaceText(m.In, m.InMask))
	}
	if m.Flags&PhysIsOut != 0 {
		w.not(not(PhysIsOut), "--physdev-is-out")
	}
	if m.Flags&PhysOut != 0 {
		w.not(not(PhysOut), "--physdev-out", ifaceText(m.Out, m.OutMask))
	}
	if m.Flags&PhysBridged != 0 {
		w.not(not(PhysBridged), "--physdev-is-bridged")
	}
	return w.String()
}

// ifaceText is the name of an interface, with + for any rest.
func ifaceText(name, mask [unix.IFNAMSIZ]byte) string {
	text := unix.ByteSliceToString(name[:])
	if n := bytes.IndexByte(mask[:], 0); n >= 0 && n <= len(text) {
		return text[:n] + "+"
	}
	return text
}

// IfaceMatches reports whether a name is one of those that a name with a mask of bytes means.
func IfaceMatches(have string, name, mask [unix.IFNAMSIZ]byte) bool {
	var padded [unix.IFNAMSIZ]byte
	copy(padded[:], have)
	for i := range padded {
		if (padded[i]^name[i])&mask[i] != 0 {
			return false
		}
	}
	return true
}

// XT_RPFILTER_*.
const (
	RPFLoose = 1 << iota
	RPFValidMark
	RPFAcceptLocal
	RPFInvert
)

// Options returns flags.
func (m RPFilter) Options() string {
	w := &words{}
	w.on(m.Flags&RPFLoose != 0, "--loose")
	w.on(m.Flags&RPFValidMark != 0, "--validmark")
	w.on(m.Flags&RPFAcceptLocal != 0, "--accept-local")
	w.on(m.Flags&RPFInvert != 0, "--invert")
	return w.String()
}

// Options returns the type.
func (m PktType) Options() string {
	w := &words{}
	names := []string{"unicast", "broadcast", "multicast"}
	name := strconv.Itoa(int(m.Type))
	if int(m.Type) < len(names) {
		name = names[m.Type]
	}
	w.not(m.Not, "--pkt-type", name)
	return w.String()
}

// Options returns the lengths.
func (m Length) Options() string {
	w := &words{}
	w.not(m.Not, "--length", span(m.Min, m.Max))
	return w.String()
}

// Options returns the comparison.
func (m TTL) Options() string {
	w := &words{}
	name := "--ttl"
	if m.IP6 {
		name = "--hl"
	}
	switch m.Mode {
	case 2:
		w.add(name+"-lt", m.Value)
	case 3:
		w.add(name+"-gt", m.Value)
	default:
		w.not(m.Mode == 1, name+"-eq", m.Value)
	}
	return w.String()
}

// Options returns the groups.
func (m DevGroup) Options() string {
	w := &words{}
	if m.Flags&1 != 0 {
		w.not(m.Flags&2 != 0, "--src-group", hex(m.SrcGroup, m.SrcMask))
	}
	if m.Flags&4 != 0 {
		w.not(m.Flags&8 != 0, "--dst-group", hex(m.DstGroup, m.DstMask))
	}
	return w.String()
}

// Options returns the helper.
func (m Helper) Options() string {
	w := &words{}
	w.not(m.Not, "--helper", quoted(m.Name))
	return w.String()
}

// Options returns direction and what is asked.
func (m Policy) Options() string { return m.options }

// XT_TIME_*.
const (
	TimeLocal = 1 << iota
	TimeContiguous
)

// Options returns times and days.
func (m Time) Options() string {
	w := &words{}
	clock := func(s uint32) string { return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60) }
	if m.DaytimeStart != 0 || m.DaytimeStop != 24*60*60-1 {
		w.add("--timestart", clock(m.DaytimeStart))
		w.add("--timestop", clock(m.DaytimeStop))
	}
	if m.Monthdays != 0xfffffffe {
		var days []string
		for i := 1; i < 32; i++ {
			if m.Monthdays&(1<<i) != 0 {
				days = append(days, strconv.Itoa(i))
			}
		}
		w.add("--monthdays", strings.Join(days, ","))
	}
	if m.Weekdays != 0xfe {
		var days []string
		for i, name := range []string{"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"} {
			if m.Weekdays&(2<<i) != 0 {
				days = append(days, name)
			}
		}
		w.add("--weekdays", strings.Join(days, ","))
	}
	date := func(s uint32) string { return time.Unix(int64(s), 0).UTC().Format("2006-01-02T15:04:05") }
	if m.DateStart != 0 {
		w.add("--datestart", date(m.DateStart))
	}
	if m.DateStop != 1<<32-1 {
		w.add("--datestop", date(m.DateStop))
	}
	w.on(m.Flags&TimeLocal != 0, "--kerneltz")
	w.on(m.Flags&TimeContiguous != 0, "--contiguous")
	return w.String()
}

// XT_RECENT_*.
const (
	RecentCheck = 1 << iota
	RecentSet
	RecentUpdate
	RecentRemove
	RecentTTL
	RecentReap
)

// Options returns what is asked and of which list.
func (m Recent) Options() string {
	w := &words{}
	for i, name := range []string{"--rcheck", "--set", "--update", "--remove"} {
		if m.Check&(1<<i) != 0 {
			w.not(m.Not, name)
		}
	}
	if m.Seconds != 0 {
		w.add("--seconds", m.Seconds)
	}
	w.on(m.Check&RecentReap != 0, "--reap")
	if m.HitCount != 0 {
		w.add("--hitcount", m.HitCount)
	}
	w.on(m.Check&RecentTTL != 0, "--rttl")
	w.add("--name", m.Name)
	if m.Mask.IsValid() {
		w.add("--mask", m.Mask)
	}
	if m.Dest {
		w.add("--rdest")
	} else {
		w.add("--rsource")
	}
	return w.String()
}

// Options returns the mode and its numbers.
func (m Statistic) Options() string {
	w := &words{}
	if m.Mode == 0 {
		w.add("--mode", "random")
		w.not(m.Flags&1 != 0, "--probability", fmt.Sprintf("%.11f", float64(m.Probability)/0x80000000))
	} else {
		w.add("--mode", "nth")
		w.not(m.Flags&1 != 0, "--every", m.Every+1)
		w.add("--packet", m.Packet)
	}
	return w.String()
}

// Options returns the group.
func (m Cgroup) Options() string { return m.options }

// Options returns what is asked of the header.
func (m ProtoOnly) Options() string { return m.options }

// Options returns the rate and how it is counted.
func (m Rate) Options() string { return m.options }

// Options returns what is asked.
func (m OSF) Options() string { return m.options }

// Options returns flags.
func (m Socket) Options() string { return m.options }

// Options returns the object.
func (m Nfacct) Options() string { return "--nfacct-name " + m.Name }

// Options returns the sizes.
func (m TCPMSS) Options() string {
	w := &words{}
	w.not(m.Not, "--mss", span(m.Min, m.Max))
	return w.String()
}

// Options returns the value.
func (m DSCP) Options() string {
	w := &words{}
	w.not(m.Not, "--dscp", fmt.Sprintf("0x%02x", m.Value))
	return w.String()
}

// Options returns value and mask.
func (m TOS) Options() string {
	w := &words{}
	w.not(m.Not, "--tos", fmt.Sprintf("0x%02x/0x%02x", m.Value, m.Mask))
	return w.String()
}

// Options returns what is compared.
func (m ECN) Options() string {
	w := &words{}
	not := func(bit uint8) bool { return m.Invert&bit != 0 }
	if m.Match&0x10 != 0 {
		w.not(not(0x10), "--ecn-tcp-ece")
	}
	if m.Match&0x20 != 0 {
		w.not(not(0x20), "--ecn-tcp-cwr")
	}
	if m.Match&1 != 0 {
		w.not(not(1), "--ecn-ip-ect", m.Value) //nolint:misspell // of iptables
	}
	return w.String()
}

// Options returns the headers.
func (m IPv6Header) Options() string {
	w := &words{}
	names := []bitName{
		{128, "hop-by-hop"}, {64, "ipv6-opts"}, {32, "ipv6-route"}, {16, "ipv6-frag"}, {8, "ah"}, {4, "esp"},
		{2, "ipv6-nonxt"}, {1, "protocol"},
	}
	w.not(m.Invert != 0, "--header", joined(uint32(m.Match), names))
	w.on(m.Soft, "--soft")
	return w.String()
}

// perTime is a rate by its period of 1/scale seconds, as 3/min.
func perTime(period, scale uint64) string {
	units := []struct {
		name    string
		seconds uint64
	}{{"day", 86400}, {"hour", 3600}, {"min", 60}, {"sec", 1}}
	i := 1
	for ; i < len(units); i++ {
		m := units[i].seconds * scale
		if period == 0 || period > m || m/period < m%period {
			break
		}
	}
	if period == 0 {
		return "0/day"
	}
	return fmt.Sprintf("%d/%s", units[i-1].seconds*scale/period, units[i-1].name)
}
