// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package chains

import (
	"bytes"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/internal/rules/xt"
	"github.com/nftnat/nftnat/migrate/internal/packets"
)

// match reads a match of iptables.
func (c *condition) match(f rules.Family, m rules.Match) {
	switch v := xt.DecodeMatch(f, m).(type) {
	case xt.Comment:
	case xt.Header:
		c.xtHeader(v)
	case xt.TCP:
		c.proto(false, unix.IPPROTO_TCP)
		c.sourcePorts(v.NotSrc, v.Src.From, v.Src.To)
		c.xtPorts(v.NotDst, v.Dst)
		c.tcpFlags(v.NotFlags, v.FlagMask, v.Flags)
		if v.Option != 0 {
			c.only("an option of TCP")
		}
	case xt.UDP:
		if m.Name != "udp" {
			c.only(m.Name)
			return
		}
		c.proto(false, unix.IPPROTO_UDP)
		c.sourcePorts(v.NotSrc, v.Src.From, v.Src.To)
		c.xtPorts(v.NotDst, v.Dst)
	case xt.Multiport:
		const source, destination = 0, 1
		if v.Side != destination {
			c.only(negated(v.Not, map[bool]string{true: "source ports", false: "source or destination ports"}[v.Side == source]))
			return
		}
		ranges := make([][2]uint16, len(v.Ports))
		for i, p := range v.Ports {
			ranges[i] = [2]uint16{p.From, p.To}
		}
		c.ports(v.Not, ranges...)
	case xt.AddrType:
		c.xtAddrType(v)
	case xt.Conntrack:
		c.xtConntrack(v)
	case xt.State:
		c.state(false, v.Mask&ctBitNew != 0)
	case xt.IPRange:
		if v.SrcMin.IsValid() {
			c.addr(true, v.NotSrc, packets.Span{First: v.SrcMin, Last: v.SrcMax})
		}
		if v.DstMin.IsValid() {
			c.addr(false, v.NotDst, packets.Span{First: v.DstMin, Last: v.DstMax})
		}
	default:
		text := "-m " + m.Name
		if o := v.Options(); o != "" {
			text += " " + o
		}
		c.only(text)
	}
}

// ctBitNew is XT_CONNTRACK_STATE_BIT(IP_CT_NEW).
const ctBitNew = 1 << 3

func (c *condition) xtPorts(not bool, p xt.PortRange) { c.ports(not, [2]uint16{p.From, p.To}) }

// tcpFlags compares flags of the first packet of a connection, which is a SYN.
func (c *condition) tcpFlags(not bool, mask, flags uint8) {
	const syn = 2
	if mask != 0 && (syn&mask == flags) == not {
		c.only("flags of TCP that no first packet has")
	}
}

func (c *condition) xtHeader(h xt.Header) {
	c.masked(true, h.NotSrc, h.Src.Addr, h.Src.Mask)
	c.masked(false, h.NotDst, h.Dst.Addr, h.Dst.Mask)
	if h.InMask[0] != 0 || h.NotIn {
		name, exact := linkOf(h.In, h.InMask)
		if exact {
			c.link(h.NotIn, name)
		} else {
			c.only(negated(h.NotIn, "interface "+name+"+"))
		}
	}
	if h.OutMask[0] != 0 || h.NotOut {
		name, exact := linkOf(h.Out, h.OutMask)
		if !exact {
			name += "+"
		}
		c.only(negated(h.NotOut, outgoing(name)))
	}
	if h.Proto != 0 || h.NotProto {
		c.proto(h.NotProto, uint8(min(h.Proto, 255))) //nolint:gosec // bounded
	}
	if h.Fragment && !h.NotFragment {
		c.never() // connection tracking puts fragments together
	}
	if h.TOSSet {
		c.only("a traffic class")
	}
}

// linkOf returns the name of an interface; not exact: it is the begin of names.
func linkOf(name, mask [unix.IFNAMSIZ]byte) (_ string, exact bool) {
	text, _, _ := bytes.Cut(name[:], []byte{0})
	return string(text), len(text) < len(mask) && mask[len(text)] != 0
}

func (c *condition) xtAddrType(v xt.AddrType) {
	const local = 1 << unix.RTN_LOCAL
	if v.Src != 0 {
		c.only("the type of the source address")
	}
	if v.LimitIn || v.LimitOut {
		c.only("an address of the interface")
	}
	if v.Dst != 0 && (v.Dst&local != 0) == v.NotDst {
		c.never()
	}
}

func (c *condition) xtConntrack(v xt.Conntrack) {
	if v.Flags&xt.CTState != 0 {
		c.state(v.Invert&xt.CTState != 0, v.State&ctBitNew != 0)
	}
	if v.Flags&xt.CTProto != 0 {
		c.proto(v.Invert&xt.CTProto != 0, uint8(min(v.Proto, 255))) //nolint:gosec // bounded
	}
	rest := v
	if rest.Flags &^= xt.CTState | xt.CTProto | ctAlias; rest.Flags != 0 {
		c.only("-m conntrack " + rest.Options())
	}
}

// ctAlias is XT_CONNTRACK_STATE_ALIAS, which is no condition.
const ctAlias = 1 << 13

// target reads a target of iptables.
func (c *compiler) target(s *state, t rules.Target) {
	switch v := xt.DecodeTarget(c.rule.Chain.Table.Family, t).(type) {
	case xt.Nat:
		switch v.Kind {
		case "DNAT":
			c.emit(s, Translate, func(r *Rule) { r.To = xtTarget(v) })
		case "REDIRECT":
			c.emit(s, Redirect, nil)
		case "NETMAP":
			c.emit(s, Translate, func(r *Rule) { r.To.Fault = "it translates a network to another one" })
		default:
			c.emit(s, Hide, nil)
		}
	case xt.SetMark, xt.SetConnmark, xt.Marks:
		c.emit(s, Mark, nil)
	case xt.AddSet:
		if v.MapsMark {
			c.emit(s, Mark, nil)
		}
	case xt.Harmless, xt.Classify, xt.SetTTL, xt.SetTOS, xt.Track:
	default:
		s.only("-j " + t.Name)
		c.emit(s, Unknown, nil)
	}
}

func xtTarget(v xt.Nat) Target {
	to := Target{}
	if v.Flags&xt.NatIPs != 0 {
		if to.Addr = v.Min; v.Max != v.Min {
			to.Fault = "it goes to any of several addresses"
		}
	}
	if v.Flags&xt.NatPorts != 0 {
		to.First, to.Last = v.PortMin, v.PortMax
	}
	if v.Flags&xt.NatPortOffset != 0 {
		to.Shifted, to.Base = true, v.PortBase
	}
	to.flags(v.Flags &^ xt.NatNetmap)
	return to
}
