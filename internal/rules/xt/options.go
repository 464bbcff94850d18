// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"fmt"
	"strconv"
	"strings"
	"time"
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
