// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

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
