// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf"
	own "github.com/nftnat/nftnat/internal/netns"
	"github.com/nftnat/nftnat/internal/nlwire"
	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/internal/rules/xt"
	"github.com/nftnat/nftnat/trace/internal/marking"
)

// host is what is read of the network namespace besides rules.
type host struct {
	handle *netlink.Handle
	netNS  int
	names  map[int]string // of interfaces
}

func openHost(netNS int) (*host, error) {
	h := &host{netNS: netNS, names: map[int]string{}}
	var err error
	if netNS == 0 {
		h.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	} else {
		h.handle, err = netlink.NewHandleAt(netns.NsHandle(netNS), unix.NETLINK_ROUTE)
	}
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	return h, nil
}

func (h *host) close() { h.handle.Close() }

// do calls f in the namespace.
func (h *host) do(f func() error) error {
	if h.netNS == 0 {
		return f()
	}
	return own.Do(h.netNS, f)
}

// link names an interface.
func (h *host) link(index int) string {
	if index == 0 {
		return ""
	}
	if name, ok := h.names[index]; ok {
		return name
	}
	name := fmt.Sprintf("interface %d", index)
	if l, err := h.handle.LinkByIndex(index); err == nil {
		name = l.Attrs().Name
	}
	h.names[index] = name
	return name
}

// links lists the interfaces, those whose packets are seen first at their ingress apart: a packet comes to
// a bridge, a bond or a VLAN by an interface below, and to the loopback from an output hook.
func (h *host) links() (all []netlink.Link, firsts, others []marking.Device, err error) {
	all, err = h.handle.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, nil, nil, fmt.Errorf("list interfaces: %w", err)
	}
	clear(h.names)
	for _, l := range all {
		a := l.Attrs()
		h.names[a.Index] = a.Name
		d := marking.Device{Name: a.Name, Index: a.Index}
		switch {
		case a.Flags&unix.IFF_LOOPBACK != 0, slices.Contains([]string{"bridge", "bond", "team", "vrf"}, l.Type()),
			a.NetNsID < 0 && slices.Contains([]string{"vlan", "macvlan", "ipvlan"}, l.Type()): // the one below is here
			others = append(others, d)
		default:
			firsts = append(firsts, d)
		}
	}
	return all, firsts, others, nil
}

// local lists the host's own addresses, loopback and broadcasts included: the routes of the table local.
func (h *host) local() (prefixes []netip.Prefix, err error) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := h.handle.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("list the host's addresses: %w", err)
		}
		for _, r := range routes {
			if r.Dst == nil || r.Type != unix.RTN_LOCAL && r.Type != unix.RTN_BROADCAST {
				continue
			}
			a, ok := netip.AddrFromSlice(r.Dst.IP)
			ones, _ := r.Dst.Mask.Size()
			if ok {
				prefixes = append(prefixes, netip.PrefixFrom(a.Unmap(), ones))
			}
		}
	}
	return prefixes, nil
}

// legacyTables lists the tables of iptables-legacy that exist, and those programs whose tables may not be listed.
// Reading the list makes none.
func (h *host) legacyTables() (tables, hidden []string) {
	_ = h.do(func() error {
		for _, f := range []struct {
			family  rules.Family
			program string
		}{{unix.NFPROTO_IPV4, "iptables-legacy"}, {unix.NFPROTO_IPV6, "ip6tables-legacy"}} {
			names, err := xt.LegacyNames(f.family)
			if err != nil {
				hidden = append(hidden, f.program)
			}
			for _, name := range names {
				tables = append(tables, f.program+" "+name)
			}
		}
		return nil
	})
	return tables, hidden
}

// unseen lists the programs before the rules, on the interfaces that a packet to one of the addresses
// comes by; no address: all interfaces.
func (h *host) unseen(links []netlink.Link, addrs []netip.Addr) (lines []string) {
	by := map[int]bool{}
	if len(addrs) != 0 {
		for _, l := range links {
			list, err := h.handle.AddrList(l, netlink.FAMILY_ALL)
			if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
				continue
			}
			for _, a := range list {
				if ip, ok := netip.AddrFromSlice(a.IP); ok && slices.Contains(addrs, ip.Unmap()) {
					by[l.Attrs().Index] = true
				}
			}
		}
	}
	for _, l := range links {
		a := l.Attrs()
		if len(by) != 0 && !by[a.Index] && !by[a.MasterIndex] {
			continue
		}
		if a.Xdp != nil && a.Xdp.Attached {
			lines = append(lines, a.Name+" has an XDP program")
		}
		if h.filters(a.Index) != 0 || h.programs(a.Index) != 0 {
			lines = append(lines, a.Name+" has tc filters")
		}
	}
	return lines
}

// programs counts the programs of tcx for what comes in.
func (h *host) programs(index int) (n int) {
	_ = h.do(func() (err error) { // before Linux 6.6 there are none
		n, err = bpf.CountTCX(index)
		return err
	})
	return n
}

// filters counts the filters of tc for what comes in by an interface, of a qdisc clsact or ingress.
func (h *host) filters(index int) int {
	s, err := nlwire.Dial(nlwire.Config{Protocol: unix.NETLINK_ROUTE, NetNS: h.netNS})
	if err != nil {
		return 0
	}
	defer func() { _ = s.Close() }()          // nothing was changed
	const tcMessage, ingress = 20, 0xfffffff2 // struct tcmsg; TC_H_CLSACT and TC_H_MIN_INGRESS
	b, at := nlwire.OpenMessage(nil, unix.RTM_GETTFILTER, unix.NLM_F_DUMP, 1)
	m := make([]byte, tcMessage)
	binary.NativeEndian.PutUint32(m[4:], uint32(index))
	binary.NativeEndian.PutUint32(m[12:], ingress)
	if s.Send(nlwire.CloseMessage(append(b, m...), at)) != nil {
		return 0
	}
	n, buf := 0, make([]byte, nlwire.LargestDatagram)
	for {
		size, err := s.Receive(buf, false)
		if err != nil {
			return n // at the end, there is no more
		}
		for m := (nlwire.Messages{Data: buf[:size]}); m.Next(); {
			if m.Type == unix.RTM_NEWTFILTER {
				n++
			}
		}
	}
}

// neighbour is the state of a neighbour that is not there, as ip-neighbour(8) names it. Empty: it is there, or not on the
// link.
func (h *host) neighbour(link string, addr netip.Addr) string {
	l, err := h.handle.LinkByName(link)
	if err != nil {
		return ""
	}
	list, err := h.handle.NeighList(l.Attrs().Index, 0)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return ""
	}
	for _, n := range list {
		if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == addr.WithZone("") {
			switch {
			case n.State&netlink.NUD_FAILED != 0:
				return "FAILED"
			case n.State&netlink.NUD_INCOMPLETE != 0:
				return "INCOMPLETE"
			}
		}
	}
	return ""
}
