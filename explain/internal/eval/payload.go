// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

// payload loads bytes of the packet.
func (r *run) payload(rl *rules.Rule, x rules.Payload, cur *cursor) {
	at, ok := span(x.Dreg, x.Len)
	if !ok || x.Offset < 0 {
		r.fork(rl, cur, "an odd load of the packet's bytes")
		return
	}
	s := cur.state
	var h [3]*header
	switch x.Base {
	case unix.NFT_PAYLOAD_LL_HEADER:
		if !r.hasLink() {
			cur.broken()
			return
		}
		h = [3]*header{&s.link, &s.net, &s.th}
	case unix.NFT_PAYLOAD_NETWORK_HEADER:
		h = [3]*header{&s.net, &s.th}
	case unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		if s.net.len == 28 || s.net.len == 0 {
			cur.broken()
			return
		}
		h = [3]*header{&s.th}
	default:
		cur.what = "bytes within the packet"
		cur.regs.forget(x.Dreg, x.Len)
		r.fork(rl, cur, cur.what)
		return
	}
	g := &cur.regs
	g.forget(x.Dreg, x.Len)
	cur.what = r.payloadName(x)
	total, have := 0, 0
	for _, one := range h {
		if one == nil {
			break
		}
		for i := range int(one.len) {
			if n := total + i - x.Offset; n >= 0 && n < x.Len {
				g.val[at+n], g.known[at+n] = one.val[i], one.known[i]
				g.part[at+n] = s.part(one, i)
				have++
			}
		}
		total += int(one.len)
	}
	if have == x.Len {
		return
	}
	// Behind the headers: the packet may be shorter.
	end := x.Offset + x.Len
	switch {
	case r.base.Len > 0 && end > r.lenFrom(x.Base):
		cur.broken()
	case r.base.Len == 0:
		r.fork(rl, cur, "what is behind the packet's headers")
	}
}

// hasLink reports whether the packet has a header of the link layer.
func (r *run) hasLink() bool {
	switch h := r.hook; {
	case h == Output || h == ArpOutput:
		return false
	case h == Postrouting:
		return r.base.In.Index != 0 && linkLen(r.base.In) > 0
	case h == Egress:
		return linkLen(r.base.Out) > 0
	case h.bridge():
		return true
	}
	return linkLen(r.base.In) > 0
}

// lenFrom is how many bytes the packet has from a header on.
func (r *run) lenFrom(base uint32) int {
	n := r.base.Len
	switch base {
	case unix.NFT_PAYLOAD_LL_HEADER:
		n += 14
		if r.base.VLAN != 0 {
			n += 4
		}
	case unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		n -= 20
		if r.base.EtherType == unix.ETH_P_IPV6 {
			n -= 20
		}
	}
	return n
}

func (r *run) payloadName(x rules.Payload) string {
	switch {
	case x.Base == unix.NFT_PAYLOAD_LL_HEADER && x.Offset < 12:
		return "a MAC address"
	case x.Base == unix.NFT_PAYLOAD_NETWORK_HEADER && r.base.EtherType == unix.ETH_P_IP && x.Offset == 8,
		x.Base == unix.NFT_PAYLOAD_NETWORK_HEADER && r.base.EtherType == unix.ETH_P_IPV6 && x.Offset == 7:
		return hops.String()
	}
	return "a field of the packet"
}

// payloadSet writes bytes of the packet.
func payloadSet(x rules.Payload, cur *cursor) {
	from, ok := span(x.Sreg, x.Len)
	if !ok || x.Offset < 0 {
		return
	}
	s := cur.change()
	var h *header
	switch x.Base {
	case unix.NFT_PAYLOAD_LL_HEADER:
		h = &s.link
	case unix.NFT_PAYLOAD_NETWORK_HEADER:
		h = &s.net
	case unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		h = &s.th
	default:
		return
	}
	for i := range x.Len {
		at := x.Offset + i
		if at >= int(h.len) {
			return
		}
		if p := s.part(h, at); p.number() == clientPort && cur.regs.part[from+i] != p {
			s.client = portsKnown
		}
		s.written = s.written || cur.regs.known[from+i] != 0xff
		h.val[at], h.known[at] = cur.regs.val[from+i]&cur.regs.known[from+i], cur.regs.known[from+i]
	}
}
