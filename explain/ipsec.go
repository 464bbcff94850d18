// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/explain/internal/host"
)

// ipsec returns the stage at which policies of IPsec are asked.
func (x *walk) ipsec(dir host.XFRMDir) stage {
	return func(w *way) []*way {
		in, out := w.p.In, w.p.Out
		if in.Type == unix.ARPHRD_LOOPBACK || out.Type == unix.ARPHRD_LOOPBACK {
			return w.on() // lo has them off
		}
		q := host.RouteQuery{Src: w.p.Src, Dst: w.p.Dst, SrcPort: w.p.SrcPort, DstPort: w.p.DstPort, Iif: in.Index, Oif: out.Index, Mark: w.p.Mark, Proto: w.p.Proto}
		if c := &w.p.CT; dir != host.XFRMOut && c.Status&(eval.SrcNAT|eval.DstNAT) != 0 {
			// What comes in is asked for as it was before it was translated (nf_nat_decode_session).
			t := c.Original
			if c.Reply {
				t = c.Answer
			}
			q.Src, q.Dst, q.SrcPort, q.DstPort = t.Src, t.Dst, t.SrcPort, t.DstPort
		}
		p, certain, err := x.facts.XFRM(dir, q)
		switch {
		case err != nil:
			w.unread("policies of IPsec", err)
			return w.on()
		case p == nil:
			return w.on()
		}
		c := Cause{Kind: KindIPsec, Thing: "policy of IPsec: " + p.String(), What: "drops " + x.describe(w), Remedy: "ip xfrm policy list shows the policies; delete it if it is not wanted"}
		switch {
		case !p.Stops():
			c.What = "has " + x.describe(w) + " encrypted; where it goes then is not followed"
			w.maybe(c)
			return w.on()
		case !certain || w.p.MarkUnknown:
			w.maybe(c)
			return w.on()
		case p.Encrypts:
			c.What += ", which is not encrypted"
		}
		w.step("ipsec", "%s", c.Thing)
		return w.halt(c)
	}
}

// programs notes the programs of eBPF at a hook of netfilter: no table has them, and they cannot be read.
func (x *walk) programs(w *way, h eval.Hook) {
	if h < eval.Prerouting || h > eval.Postrouting {
		return
	}
	list, err := x.facts.NFPrograms()
	if err != nil {
		return // it is among what could not be read
	}
	family := uint8(unix.NFPROTO_IPV6)
	if w.p.EtherType == unix.ETH_P_IP {
		family = unix.NFPROTO_IPV4
	}
	for _, p := range list {
		if p.Family == family && p.Hook == uint32(h-eval.Prerouting) {
			w.maybe(Cause{Kind: KindUnread, Thing: p.String(), What: "sees " + x.describe(w) + ", unless it is of another network namespace, and cannot be read"})
		}
	}
}
