// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
	"github.com/nftnat/nftnat/internal/order"
)

// XFRMDir is a direction of policies of IPsec.
type XFRMDir uint8

// The directions. What is forwarded meets XFRMForward before the hook forward, and XFRMOut with its
// route; what the host receives meets XFRMIn behind the hook input.
const (
	XFRMIn XFRMDir = iota
	XFRMOut
	XFRMForward
)

// String returns the direction as ip-xfrm(8) names it.
func (d XFRMDir) String() string {
	names := [...]string{XFRMIn: "in", XFRMOut: "out", XFRMForward: "fwd"}
	if int(d) >= len(names) {
		return "invalid"
	}
	return names[d]
}

// XFRMPolicy is a policy of IPsec.
type XFRMPolicy struct {
	Dir      XFRMDir
	Priority uint32
	Blocks   bool // it drops
	// Encrypts is set if packets need IPsec: what goes out is encrypted, and what comes in without is
	// dropped.
	Encrypts bool
	// Text is it about as ip-xfrm(8) prints it: "src 0.0.0.0/0 dst 172.30.0.2/32 dir fwd action block".
	Text string

	src, dst                   netip.Prefix
	proto                      uint8
	srcPort, dstPort           uint16
	srcMask, dstMask           uint16
	link                       int
	mark, markMask, interfaces uint32
}

// String returns the Text.
func (p *XFRMPolicy) String() string { return p.Text }

// Stops reports whether a packet that is not encrypted ends here.
func (p *XFRMPolicy) Stops() bool { return p.Blocks || p.Encrypts && p.Dir != XFRMOut }

// Of include/uapi/linux/xfrm.h.
const (
	xfrmGetPolicy  = 0x15
	xfrmGetDefault = 0x28
	xfrmaTmpl      = 5
	xfrmaMark      = 21
	xfrmaIfID      = 31
	xfrmSelector   = 56  // struct xfrm_selector
	xfrmPolicySize = 164 // struct xfrm_userpolicy_info without its padding
	xfrmPolicyID   = 64  // struct xfrm_userpolicy_id
	xfrmTmplSize   = 64  // struct xfrm_user_tmpl
	xfrmOptional   = 50  // of that
	xfrmBlock      = 1   // XFRM_POLICY_BLOCK and XFRM_USERPOLICY_BLOCK
)

// XFRM returns the policy of IPsec that a packet meets, if it drops or encrypts it; nil: it passes.
// q.Iif is the interface by which it came in, q.Oif that by which it leaves. certain is false if that depends
// on a port of q that is zero, which is not known.
func (h *Host) XFRM(dir XFRMDir, q RouteQuery) (p *XFRMPolicy, certain bool, err error) {
	all, err := h.xfrmPolicies()
	if err != nil || len(all) == 0 {
		return nil, true, err
	}
	link, name := q.Iif, "disable_policy"
	if dir == XFRMOut {
		link, name = q.Oif, "disable_xfrm"
	}
	if link != 0 {
		off, _, err := h.Setting(q.Dst.Unmap().Is4(), link, name)
		if err == nil && off != 0 {
			return nil, true, nil
		}
	}
	certain = true
	for _, p := range all {
		if p.Dir != dir || !p.matches(q) {
			continue
		}
		known := p.portsKnown(q)
		certain = certain && known
		if p.Blocks || p.Encrypts {
			return p, certain, nil
		}
		if known {
			break
		}
	}
	return nil, certain, nil
}

// portsKnown reports whether the policy asks for no port that is zero.
func (p *XFRMPolicy) portsKnown(q RouteQuery) bool {
	return (p.srcMask == 0 || q.SrcPort != 0) && (p.dstMask == 0 || q.DstPort != 0)
}

// HasXFRM reports whether there is any policy of IPsec.
func (h *Host) HasXFRM() (bool, error) {
	all, err := h.xfrmPolicies()
	return len(all) > 0, err
}

func (p *XFRMPolicy) matches(q RouteQuery) bool {
	return inSelector(p.src, q.Src) && inSelector(p.dst, q.Dst) && (p.proto == 0 || p.proto == q.Proto) &&
		(q.SrcPort == 0 || (p.srcPort^q.SrcPort)&p.srcMask == 0) && (q.DstPort == 0 || (p.dstPort^q.DstPort)&p.dstMask == 0) &&
		(p.link == 0 || p.link == q.Oif) && q.Mark&p.markMask == p.mark && p.interfaces == 0
}

func inSelector(p netip.Prefix, a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return p.Addr().Is4() == a.Is4() && p.Contains(a)
}

// xfrmPolicies lists the policies in the order in which the kernel asks them, and the default ones.
func (h *Host) xfrmPolicies() (list []*XFRMPolicy, err error) {
	if h.xfrm != nil {
		return *h.xfrm, nil
	}
	err = h.ask(unix.NETLINK_XFRM, xfrmGetPolicy, unix.NLM_F_DUMP, make([]byte, xfrmPolicyID), func() { list = nil }, func(m nlwire.Message) error {
		p, err := parseXFRMPolicy(m)
		if err == nil && p != nil {
			list = append(list, p)
		}
		return err
	})
	if err == nil {
		order.Sort(list, func(a, b *XFRMPolicy) int { return cmp.Compare(a.Priority, b.Priority) })
		err = h.ask(unix.NETLINK_XFRM, xfrmGetDefault, 0, make([]byte, 4), nil, func(m nlwire.Message) error {
			list = append(list, parseXFRMDefault(m.Payload)...)
			return nil
		})
		if errors.Is(err, unix.EINVAL) { // before Linux 5.15 there is none
			err = nil
		}
	}
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT): // the kernel has no IPsec
	case err != nil:
		return nil, h.note(fmt.Errorf("list policies of IPsec: %w", err))
	}
	h.xfrm = &list
	return list, nil
}

// parseXFRMPolicy reads struct xfrm_userpolicy_info; nil: one of a family or direction that is not known here.
func parseXFRMPolicy(m nlwire.Message) (*XFRMPolicy, error) {
	b := m.Payload
	if len(b) < xfrmPolicySize {
		return nil, nlwire.ErrMalformed
	}
	p := &XFRMPolicy{
		dstPort: be16(b[32:]), dstMask: be16(b[34:]), srcPort: be16(b[36:]), srcMask: be16(b[38:]),
		proto: b[44], link: int(int32(u32(b[48:]))),
		Priority: u32(b[xfrmSelector+96:]), Dir: XFRMDir(b[160]), Blocks: b[161] == xfrmBlock,
	}
	switch u16(b[40:]) {
	case unix.AF_INET:
		p.dst, p.src = netip.PrefixFrom(netip.AddrFrom4([4]byte(b)), int(b[42])), netip.PrefixFrom(netip.AddrFrom4([4]byte(b[16:])), int(b[43]))
	case unix.AF_INET6:
		p.dst, p.src = netip.PrefixFrom(netip.AddrFrom16([16]byte(b)), int(b[42])), netip.PrefixFrom(netip.AddrFrom16([16]byte(b[16:])), int(b[43]))
	default:
		return nil, nil
	}
	if p.Dir > XFRMForward {
		return nil, nil
	}
	a := m.Attrs(nlwire.Align(xfrmPolicySize) + 4) // it is padded to 8
	for a.Next() {
		switch a.Type {
		case xfrmaTmpl:
			for t := a.Payload; len(t) >= xfrmTmplSize; t = t[xfrmTmplSize:] {
				p.Encrypts = p.Encrypts || t[xfrmOptional] == 0
			}
		case xfrmaMark:
			if len(a.Payload) == 8 {
				p.mark, p.markMask = u32(a.Payload), u32(a.Payload[4:])
			}
		case xfrmaIfID:
			p.interfaces = u32(a.Payload)
		}
	}
	words := []string{"src", p.src.String(), "dst", p.dst.String()}
	if p.proto != 0 {
		words = append(words, "proto", protoText(p.proto))
	}
	if p.srcMask != 0 {
		words = append(words, fmt.Sprintf("sport %d", p.srcPort))
	}
	if p.dstMask != 0 {
		words = append(words, fmt.Sprintf("dport %d", p.dstPort))
	}
	words = append(words, "dir", p.Dir.String())
	if p.Blocks {
		words = append(words, "action block")
	}
	if p.Priority != 0 {
		words = append(words, fmt.Sprintf("priority %d", p.Priority))
	}
	p.Text = strings.Join(words, " ")
	return p, a.Err
}

// parseXFRMDefault reads struct xfrm_userpolicy_default: what becomes of packets that meet no policy.
func parseXFRMDefault(b []byte) (list []*XFRMPolicy) {
	if len(b) < 3 {
		return nil
	}
	for i, dir := range []XFRMDir{XFRMIn, XFRMForward, XFRMOut} {
		if b[i] != xfrmBlock {
			continue
		}
		for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			prefix := netip.PrefixFrom(any, 0)
			list = append(list, &XFRMPolicy{Dir: dir, Blocks: true, src: prefix, dst: prefix, Text: "default " + dir.String() + " block"})
		}
	}
	return list
}
