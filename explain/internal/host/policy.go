// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// PolicyRule is a rule of ip-rule(8).
type PolicyRule struct {
	Is4        bool
	Priority   uint32
	Not        bool
	From, To   netip.Prefix // invalid: any
	Iif, Oif   string       // empty: any
	Mark, Mask uint32       // zero Mask: any
	// TOS is that of packets in the bits of TOSMask. Zero mask: any.
	TOS, TOSMask       uint8
	Proto              uint8 // zero: any
	SrcPorts, DstPorts PortMatch
	UIDs               *[2]uint32 // the first and last; nil: any
	TunID              uint64     // zero: any
	L3MDev             bool       // for packets of a VRF, by its table
	// Action is FR_ACT_*. Table and Goto belong to it.
	Action      uint8
	Table, Goto uint32
	// SuppressLength has routes ignored whose prefixes are not longer; -1: none.
	SuppressLength int
	// SuppressGroup has routes ignored by interfaces of that group; -1: none.
	SuppressGroup int64
	// Detached is set if an interface of the rule does not exist: it matches nothing.
	IifDetached, OifDetached bool
	// Unread is set if it has conditions that are not read here.
	Unread bool
}

// PortMatch is a range of ports, or, with a Mask, the value of First in its bits. The zero value: any.
type PortMatch struct{ First, Last, Mask uint16 }

func (m PortMatch) has(port uint16) bool {
	switch {
	case m == PortMatch{}:
		return true
	case m.Mask != 0 && m.Mask != 1<<16-1:
		return port&m.Mask == m.First&m.Mask
	}
	return m.First <= port && port <= m.Last
}

// String returns the match as ip-rule(8) prints it: "80", "80-90".
func (m PortMatch) String() string {
	switch {
	case m.Mask != 0 && m.Mask != 1<<16-1:
		return fmt.Sprintf("%#x/%#x", m.First, m.Mask)
	case m.First == m.Last:
		return strconv.Itoa(int(m.First))
	}
	return fmt.Sprintf("%d-%d", m.First, m.Last)
}

// String returns the rule about as ip-rule(8) prints it: "32765: from 172.30.0.2 lookup 99".
func (r *PolicyRule) String() string { return fmt.Sprintf("%d: %s", r.Priority, r.spec()) }

// spec is the rule as ip-rule(8) takes it, without its priority.
func (r *PolicyRule) spec() string {
	var words []string
	add := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	if r.Not {
		add("not")
	}
	if r.From.IsValid() {
		add("from %s", prefixText(r.From))
	} else {
		add("from all")
	}
	if r.To.IsValid() {
		add("to %s", prefixText(r.To))
	}
	if r.TOSMask != 0 {
		add("tos %#02x", r.TOS)
	}
	switch r.Mask {
	case 0:
	case 1<<32 - 1:
		add("fwmark %#x", r.Mark)
	default:
		add("fwmark %#x/%#x", r.Mark, r.Mask)
	}
	if r.Iif != "" {
		add("iif %s", r.Iif)
	}
	if r.IifDetached {
		add("[detached]")
	}
	if r.Oif != "" {
		add("oif %s", r.Oif)
	}
	if r.OifDetached {
		add("[detached]")
	}
	if r.UIDs != nil {
		add("uidrange %d-%d", r.UIDs[0], r.UIDs[1])
	}
	if r.Proto != 0 {
		add("ipproto %s", protoText(r.Proto))
	}
	if (r.SrcPorts != PortMatch{}) {
		add("sport %s", r.SrcPorts)
	}
	if (r.DstPorts != PortMatch{}) {
		add("dport %s", r.DstPorts)
	}
	if r.TunID != 0 {
		add("tun_id %d", r.TunID)
	}
	switch r.Action {
	case unix.FR_ACT_TO_TBL:
		if r.L3MDev {
			add("lookup [l3mdev-table]")
		} else {
			add("lookup %s", tableText(r.Table))
		}
		if r.SuppressLength >= 0 {
			add("suppress_prefixlength %d", r.SuppressLength)
		}
		if r.SuppressGroup >= 0 {
			add("suppress_ifgroup %d", r.SuppressGroup)
		}
	case unix.FR_ACT_GOTO:
		add("goto %d", r.Goto)
	case unix.FR_ACT_NOP:
		add("nop")
	case unix.FR_ACT_BLACKHOLE:
		add("blackhole")
	case unix.FR_ACT_UNREACHABLE:
		add("unreachable")
	case unix.FR_ACT_PROHIBIT:
		add("prohibit")
	default:
		add("action %d", r.Action)
	}
	return strings.Join(words, " ")
}

// prefixText is a prefix as ip(8) prints it: an address alone has no length.
func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

func protoText(proto uint8) string {
	switch proto {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_ICMP:
		return "icmp"
	case unix.IPPROTO_ICMPV6:
		return "ipv6-icmp"
	}
	return strconv.Itoa(int(proto))
}

// tableText is a table as ip(8) names it without a file of names.
func tableText(table uint32) string {
	switch table {
	case unix.RT_TABLE_LOCAL:
		return "local"
	case unix.RT_TABLE_MAIN:
		return "main"
	case unix.RT_TABLE_DEFAULT:
		return "default"
	}
	return strconv.FormatUint(uint64(table), 10)
}

// What a rule is made of (struct fib_rule_hdr and the enums behind it in
// include/uapi/linux/fib_rules.h) that x/sys does not have.
const (
	ruleHeader    = 12
	fraDSCP       = 25
	fraSPortMask  = 28
	fraDPortMask  = 29
	fraDSCPMask   = 30
	suppressNone  = 1<<32 - 1
	legacyTOSMask = 0x1c // INET_DSCP_LEGACY_TOS_MASK of include/net/inet_dscp.h
	dscpMask      = 0xfc // INET_DSCP_MASK
)

// PolicyRules lists the policy rules of a family in the order in which the kernel asks them. A kernel
// without policy routing has those that it is as if it had.
func (h *Host) PolicyRules(is4 bool) ([]*PolicyRule, error) {
	if list, known := h.rules[is4]; known {
		return list, nil
	}
	var list []*PolicyRule
	body := make([]byte, ruleHeader)
	body[0] = family(is4)
	err := h.ask(unix.NETLINK_ROUTE, unix.RTM_GETRULE, unix.NLM_F_DUMP, body, func() { list = nil }, func(m nlwire.Message) error {
		r, err := parsePolicyRule(m)
		if err == nil && r.Is4 == is4 {
			list = append(list, r)
		}
		return err
	})
	switch {
	case errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EOPNOTSUPP):
		for i, table := range []uint32{unix.RT_TABLE_LOCAL, unix.RT_TABLE_MAIN, unix.RT_TABLE_DEFAULT} {
			list = append(list, &PolicyRule{Is4: is4, Priority: uint32(i), Action: unix.FR_ACT_TO_TBL, Table: table, SuppressLength: -1, SuppressGroup: -1})
		}
	case err != nil:
		return nil, h.note(fmt.Errorf("list policy rules: %w", err))
	}
	h.rules[is4] = list
	return list, nil
}

// parsePolicyRule reads a rule that the kernel lists.
func parsePolicyRule(m nlwire.Message) (*PolicyRule, error) {
	b := m.Payload
	if len(b) < ruleHeader {
		return nil, nlwire.ErrMalformed
	}
	r := &PolicyRule{Is4: b[0] == unix.AF_INET, Table: uint32(b[4]), Action: b[7], SuppressLength: -1, SuppressGroup: -1}
	if b[3] != 0 {
		r.TOS, r.TOSMask = b[3], dscpMask
		if r.Is4 {
			r.TOSMask = legacyTOSMask
		}
	}
	flags := u32(b[8:])
	r.Not = flags&unix.FIB_RULE_INVERT != 0
	r.IifDetached, r.OifDetached = flags&unix.FIB_RULE_IIF_DETACHED != 0, flags&unix.FIB_RULE_OIF_DETACHED != 0
	toBits, fromBits := int(b[1]), int(b[2])
	attrs := m.Attrs(ruleHeader)
	for attrs.Next() {
		p := attrs.Payload
		switch attrs.Type {
		case unix.FRA_DST:
			r.To = r.prefix(p, toBits)
		case unix.FRA_SRC:
			r.From = r.prefix(p, fromBits)
		case unix.FRA_IIFNAME:
			r.Iif = unix.ByteSliceToString(p)
		case unix.FRA_OIFNAME:
			r.Oif = unix.ByteSliceToString(p)
		case unix.FRA_GOTO:
			r.Goto = u32(p)
		case unix.FRA_PRIORITY:
			r.Priority = u32(p)
		case unix.FRA_FWMARK:
			r.Mark = u32(p)
		case unix.FRA_FWMASK:
			r.Mask = u32(p)
		case unix.FRA_TABLE:
			r.Table = u32(p)
		case unix.FRA_SUPPRESS_PREFIXLEN:
			if n := u32(p); n != suppressNone {
				r.SuppressLength = int(n)
			}
		case unix.FRA_SUPPRESS_IFGROUP:
			if n := u32(p); n != suppressNone {
				r.SuppressGroup = int64(n)
			}
		case unix.FRA_L3MDEV:
			r.L3MDev = u8(p) != 0
		case unix.FRA_UID_RANGE:
			if len(p) == 8 {
				r.UIDs = &[2]uint32{u32(p), u32(p[4:])}
			}
		case unix.FRA_IP_PROTO:
			r.Proto = u8(p)
		case unix.FRA_SPORT_RANGE:
			r.SrcPorts.First, r.SrcPorts.Last = portRange(p)
		case unix.FRA_DPORT_RANGE:
			r.DstPorts.First, r.DstPorts.Last = portRange(p)
		case fraSPortMask:
			r.SrcPorts.Mask = u16(p)
		case fraDPortMask:
			r.DstPorts.Mask = u16(p)
		case fraDSCP:
			r.TOS, r.TOSMask = u8(p)<<2, dscpMask
		case fraDSCPMask:
			r.TOSMask = u8(p) << 2
		case unix.FRA_TUN_ID:
			if len(p) == 8 {
				r.TunID = binary.BigEndian.Uint64(p)
			}
		case unix.FRA_PROTOCOL, unix.FRA_FLOW, unix.FRA_PAD: // they do not decide
		default:
			r.Unread = true
		}
	}
	return r, attrs.Err
}

func (r *PolicyRule) prefix(b []byte, bits int) netip.Prefix {
	a, _ := netip.AddrFromSlice(b)
	p := netip.PrefixFrom(a, bits)
	r.Unread = r.Unread || !p.IsValid()
	return p
}

// portRange reads struct fib_rule_port_range.
func portRange(b []byte) (first, last uint16) {
	if len(b) != 4 {
		return 0, 0
	}
	return u16(b), u16(b[2:])
}
