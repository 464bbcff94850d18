// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Policy is the policy routing of the kernel (ip-rule(8)).
type Policy struct {
	handle *netlink.Handle
	socket *nl.SocketHandle
}

// OpenPolicy opens the policy routing of a namespace.
func OpenPolicy(ns *Namespace) (*Policy, error) {
	h, err := netlink.NewHandleAt(ns.Handle(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open policy routing: %w", err)
	}
	s, err := nl.GetNetlinkSocketAt(ns.Handle(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("open policy routing: %w", err)
	}
	return &Policy{h, &nl.SocketHandle{Socket: s}}, nil
}

// Close closes the sockets.
func (p *Policy) Close() {
	p.handle.Close()
	p.socket.Close()
}

// Rule is a rule of policy routing.
type Rule struct {
	Is4      bool
	Priority uint32
	// Protocol says who added the rule (rt_protos of iproute2): 2 is the kernel.
	Protocol uint8
	// From and To are what the addresses of a packet are within; the zero Prefix: any.
	From, To netip.Prefix
	// IIF is the interface by which it came, "lo" for those of this host. Empty: any.
	IIF string
	// Mark is what the mark of the packet is, in the bits of Mask. Zero Mask: anything.
	Mark, Mask uint32
	// Action is one of unix.FR_ACT_TO_TBL and so on. Table and Goto belong to it.
	Action      uint8
	Table, Goto uint32
	// MinLength has routes ignored whose prefixes are shorter. Zero: none.
	MinLength uint32
	// TOS and Kept, which are attributes as the kernel has them, say more about the
	// packets. They hold as well for the answers of a published port.
	TOS  uint8
	Kept string
	// Opaque is whether the rule has other conditions, or holds for what does not meet them.
	Opaque bool
}

// String returns the rule about as ip(8) prints it.
func (r Rule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:", r.Priority)
	word := func(format string, args ...any) { fmt.Fprintf(&b, " "+format, args...) }
	if r.From.IsValid() {
		word("from %s", r.From)
	} else {
		word("from all")
	}
	if r.To.IsValid() {
		word("to %s", r.To)
	}
	if r.TOS != 0 {
		word("tos %#x", r.TOS)
	}
	if r.Mask != 0 {
		word("fwmark %#x", r.Mark)
	}
	if r.Mask != 0 && r.Mask != exactMask {
		word("mask %#x", r.Mask)
	}
	if r.IIF != "" {
		word("iif %s", r.IIF)
	}
	if r.Kept != "" {
		word("and %x", r.Kept)
	}
	switch r.Action {
	case unix.FR_ACT_TO_TBL:
		word("lookup %d", r.Table)
	case unix.FR_ACT_GOTO:
		word("goto %d", r.Goto)
	default:
		word("action %d", r.Action)
	}
	if r.MinLength != 0 {
		word("suppress_prefixlength %d", r.MinLength-1)
	}
	return b.String()
}

// What a rule is made of (struct fib_rule_hdr and the enum behind it in
// include/uapi/linux/fib_rules.h).
const (
	ruleHeader  = 12
	exactMask   = 1<<32 - 1
	fraDSCP     = 25
	fraDPortsM  = 29
	fraDSCPMask = 30
)

// ruleAttempts bounds how often the rules are read again because they changed meanwhile.
const ruleAttempts = 5

// Rules lists the rules of a family in the order in which the kernel asks them. A kernel
// without policy routing has none.
func (p *Policy) Rules(is4 bool) ([]Rule, error) {
	var answers [][]byte
	err := error(nl.ErrDumpInterrupted)
	for attempt := 0; attempt < ruleAttempts && errors.Is(err, nl.ErrDumpInterrupted); attempt++ {
		answers, err = p.ask(unix.RTM_GETRULE, unix.NLM_F_DUMP, ruleFamily(is4), nil)
	}
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	rules := make([]Rule, 0, len(answers))
	for _, b := range answers {
		r, err := parseRule(b)
		if err != nil {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		if r.Is4 == is4 {
			rules = append(rules, r)
		}
	}
	return rules, nil
}

// AddRule adds a rule behind the others of its priority.
func (p *Policy) AddRule(r Rule) error {
	_, err := p.ask(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, ruleFamily(r.Is4), &r)
	if err != nil {
		return fmt.Errorf("add rule %q: %w", r, err)
	}
	return nil
}

// DeleteRule deletes the first rule that is like r, where r says anything. It is no error if
// there is none.
func (p *Policy) DeleteRule(r Rule) error {
	_, err := p.ask(unix.RTM_DELRULE, unix.NLM_F_ACK, ruleFamily(r.Is4), &r)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete rule %q: %w", r, err)
	}
	return nil
}

func (p *Policy) ask(typ, flags int, family byte, r *Rule) ([][]byte, error) {
	b := make([]byte, ruleHeader)
	b[0] = family
	if r != nil {
		b = r.appendTo(b)
	}
	request := nl.NewNetlinkRequest(typ, flags)
	request.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: p.socket}
	request.AddRawData(b)
	return request.Execute(unix.NETLINK_ROUTE, 0)
}

func ruleFamily(is4 bool) byte {
	if is4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// appendTo writes the rule into a header, and its attributes behind it.
func (r *Rule) appendTo(b []byte) []byte {
	number := func(typ uint16, v uint32) {
		b = nlwire.AppendAttr(b, typ, binary.NativeEndian.AppendUint32(nil, v)...)
	}
	b[3], b[7] = r.TOS, r.Action
	if r.To.IsValid() {
		b[1] = byte(r.To.Bits())
		b = nlwire.AppendAttr(b, unix.FRA_DST, r.To.Addr().AsSlice()...)
	}
	if r.From.IsValid() {
		b[2] = byte(r.From.Bits())
		b = nlwire.AppendAttr(b, unix.FRA_SRC, r.From.Addr().AsSlice()...)
	}
	if r.IIF != "" {
		b = nlwire.AppendString(b, unix.FRA_IIFNAME, r.IIF)
	}
	number(unix.FRA_PRIORITY, r.Priority)
	b = nlwire.AppendAttr(b, unix.FRA_PROTOCOL, r.Protocol)
	if r.Mask != 0 {
		number(unix.FRA_FWMARK, r.Mark)
		number(unix.FRA_FWMASK, r.Mask)
	}
	switch r.Action {
	case unix.FR_ACT_TO_TBL:
		number(unix.FRA_TABLE, r.Table)
	case unix.FR_ACT_GOTO:
		number(unix.FRA_GOTO, r.Goto)
	}
	if r.MinLength != 0 {
		number(unix.FRA_SUPPRESS_PREFIXLEN, r.MinLength-1)
	}
	return append(b, r.Kept...)
}

// parseRule reads a rule that the kernel lists.
func parseRule(b []byte) (Rule, error) {
	if len(b) < ruleHeader {
		return Rule{}, nlwire.ErrMalformed
	}
	r := Rule{Is4: b[0] == unix.AF_INET, TOS: b[3], Table: uint32(b[4]), Action: b[7]}
	r.Opaque = binary.NativeEndian.Uint32(b[8:])&unix.FIB_RULE_INVERT != 0
	toBits, fromBits := int(b[1]), int(b[2])
	var ok bool
	attrs := nlwire.Attrs{Data: b[ruleHeader:]}
	for attrs.Next() {
		payload := attrs.Payload
		number := uint32(0)
		if len(payload) == 4 {
			number = binary.NativeEndian.Uint32(payload)
		}
		switch attrs.Type {
		case unix.FRA_DST:
			r.To, ok = rulePrefix(payload, toBits)
			r.Opaque = r.Opaque || !ok
		case unix.FRA_SRC:
			r.From, ok = rulePrefix(payload, fromBits)
			r.Opaque = r.Opaque || !ok
		case unix.FRA_IIFNAME:
			r.IIF = unix.ByteSliceToString(payload)
		case unix.FRA_GOTO:
			r.Goto = number
		case unix.FRA_PRIORITY:
			r.Priority = number
		case unix.FRA_FWMARK:
			r.Mark = number
		case unix.FRA_FWMASK:
			r.Mask = number
		case unix.FRA_TABLE:
			r.Table = number
		case unix.FRA_SUPPRESS_PREFIXLEN:
			r.MinLength = number + 1 // none is the highest number
		case unix.FRA_PROTOCOL:
			if len(payload) == 1 {
				r.Protocol = payload[0]
			}
		case unix.FRA_PAD:
		// The ports of the client are the same; those of this host are not.
		case unix.FRA_FLOW, unix.FRA_SUPPRESS_IFGROUP, unix.FRA_IP_PROTO, unix.FRA_DPORT_RANGE, fraDSCP, fraDPortsM, fraDSCPMask:
			r.Kept = string(nlwire.AppendAttr([]byte(r.Kept), attrs.Type, payload...))
		default:
			r.Opaque = true
		}
	}
	if r.Action != unix.FR_ACT_TO_TBL {
		r.Table = 0
	}
	return r, attrs.Err
}

func rulePrefix(b []byte, bits int) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(b)
	p := netip.PrefixFrom(a, bits)
	return p, ok && p.IsValid()
}

// Addresses returns the addresses of the host that others can reach, in order.
func (p *Policy) Addresses() ([]netip.Addr, error) {
	list, err := dump(func() ([]netlink.Addr, error) { return p.handle.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	addrs := make([]netip.Addr, 0, len(list))
	for _, l := range list {
		a, ok := netip.AddrFromSlice(l.IP)
		a = a.Unmap()
		if ok && !a.IsLoopback() && (a.Is4() || !a.IsLinkLocalUnicast()) {
			addrs = append(addrs, a)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs), nil
}

// Way is where the kernel sends a packet to.
type Way struct {
	// Link is the index of the interface. Zero: there is no route.
	Link    int
	Gateway netip.Addr // zero: none
}

// WayTo returns the way of packets of this host to an address. from is their source; the
// zero Addr: none is chosen yet.
func (p *Policy) WayTo(to, from netip.Addr) (Way, error) {
	options := &netlink.RouteGetOptions{}
	if from.IsValid() {
		options.SrcAddr = from.AsSlice()
	}
	found, err := p.handle.RouteGetWithOptions(to.AsSlice(), options)
	for _, none := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EINVAL, unix.EACCES} {
		if errors.Is(err, none) {
			return Way{}, nil
		}
	}
	if err != nil {
		return Way{}, fmt.Errorf("look up route to %s from %s: %w", to, from, err)
	}
	if len(found) == 0 || found[0].Type != unix.RTN_UNICAST && found[0].Type != unix.RTN_LOCAL {
		return Way{}, nil
	}
	w := Way{Link: found[0].LinkIndex}
	if gw, ok := netip.AddrFromSlice(found[0].Gw); ok {
		w.Gateway = gw.Unmap()
	}
	return w, nil
}
