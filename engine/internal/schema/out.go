// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"net/netip"
	"strings"
	"time"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/wayout"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// The maps of exits say by which frontend a backend leaves that sends from a published port.
// They follow from the published ports, the networks and the addresses of the host, so that
// they are no record:
//
//	out       by a frontend for any address: the port alone
//	link_out  by a frontend of one address, which is on the interface that the packet leaves by
//	host_out  the same with an address that is on no such interface, by any
//
// Of ranges there are out_range, link_out_range and host_out_range, without the port that the
// frontend has, which is the same, and without the ports that were taken out.
const (
	suffixOut     = "_out"
	suffixLinkOut = "_link_out"
	suffixHostOut = "_host_out"
)

// IsOut reports whether a map is one of exits.
func IsOut(set string) bool {
	return strings.HasSuffix(strings.TrimSuffix(set, rangeSuffix), suffixOut)
}

// OutElements returns the elements of exits. Their time-outs begin now.
func OutElements(exits []wayout.Exit, now time.Time) []nft.Element {
	es := make([]nft.Element, len(exits))
	for i, x := range exits {
		es[i] = outElement(x)
		if x.Expires != 0 {
			es[i].Timeout = max(time.UnixMilli(x.Expires).Sub(now), time.Millisecond)
		}
	}
	return es
}

func outElement(x wayout.Exit) nft.Element {
	any, link, host := outSets(x.Proto, x.Backend.Addr().Is4())
	if x.Ranged {
		first := x.Backend.Port()
		r := nft.Range{First: first, Last: first + x.More, Link: x.Link, Addr: single(x.Backend.Addr())}
		e := nft.Element{Set: any + rangeSuffix, Key: nft.RangeKey(r), Value: netip.AddrPortFrom(x.Frontend.Addr(), 0)}
		switch {
		case !x.Frontend.Addr().IsValid():
		case x.Link != wayout.AnyLink:
			e.Set = link + rangeSuffix
		default:
			e.Set = host + rangeSuffix
		}
		return e
	}
	switch {
	case !x.Frontend.Addr().IsValid():
		return nft.Element{Set: any, Key: nft.AddrPortKey(x.Backend), Value: x.Frontend}
	case x.Link != wayout.AnyLink:
		return nft.Element{Set: link, Key: nft.LinkKey(x.Link, x.Backend), Value: x.Frontend}
	}
	return nft.Element{Set: host, Key: nft.AddrPortKey(x.Backend), Value: x.Frontend}
}

// outSets returns the names of the maps of a protocol and family, without an allocation for
// each of many elements.
func outSets(proto nat.Proto, is4 bool) (any, link, host string) {
	switch {
	case proto == nat.TCP && is4:
		return "tcp4" + suffixOut, "tcp4" + suffixLinkOut, "tcp4" + suffixHostOut
	case proto == nat.TCP:
		return "tcp6" + suffixOut, "tcp6" + suffixLinkOut, "tcp6" + suffixHostOut
	case is4:
		return "udp4" + suffixOut, "udp4" + suffixLinkOut, "udp4" + suffixHostOut
	}
	return "udp6" + suffixOut, "udp6" + suffixLinkOut, "udp6" + suffixHostOut
}

// OutDifference returns the change that makes the maps of exits hold the wanted elements
// instead of the ones that were found. Elements that end at this moment are left to do so;
// later is whether one has the place of another that is wanted.
func OutDifference(found, want []nft.Element) (ch nft.Change, later bool) {
	missing := make(map[nft.ElementKey]nft.Element, len(want))
	for _, el := range want {
		missing[el.ElementKey()] = el
	}
	for _, el := range found {
		at := el.ElementKey()
		w, ok := missing[at]
		if ok && el.Value == w.Value && el.Comment == "" && (el.Timeout == 0) == (w.Timeout == 0) &&
			(el.Expires-w.Timeout).Abs() <= portset.ExpiryTolerance {
			delete(missing, at)
			continue
		}
		if el.Timeout != 0 && el.Expires <= portset.ExpiryTolerance {
			delete(missing, at)
			later = later || ok
			continue
		}
		ch.Delete = append(ch.Delete, el)
	}
	for _, el := range want {
		if _, ok := missing[el.ElementKey()]; ok && (el.Timeout == 0 || el.Timeout > portset.ExpiryTolerance) {
			ch.Add = append(ch.Add, el)
		}
	}
	return ch, later
}
