// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package difftest

import (
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/nat"
)

// caller is an address from which packets are sent.
type caller struct {
	ns   *lab.NS
	addr netip.Addr
	// far is false for callers of the host and beside the backends.
	far bool
}

var (
	inside4 = []netip.Addr{netip.MustParseAddr("172.30.0.2"), netip.MustParseAddr("172.30.0.3"), netip.MustParseAddr("10.40.0.2")}
	inside6 = []netip.Addr{netip.MustParseAddr("fd30::2"), netip.MustParseAddr("fd30::3"), netip.MustParseAddr("fd40::2")}
	bridge4 = netip.MustParseAddr("172.30.0.1")
	bridge6 = netip.MustParseAddr("fd30::1")
	local4  = netip.MustParseAddr("127.0.0.1")
	local6  = netip.IPv6Loopback()
)

// callers are those of a family.
func (s *site) callers(v4 bool) (cs []caller) {
	pick := func(four, six []netip.Addr) []netip.Addr {
		if v4 {
			return four
		}
		return six
	}
	for _, a := range pick(client4, client6) {
		cs = append(cs, caller{s.client, a, true})
	}
	for _, a := range pick(other4, other6) {
		cs = append(cs, caller{s.other, a, true})
	}
	for i, a := range pick(inside4, inside6) {
		cs = append(cs, caller{[]*lab.NS{s.backend1, s.backend2, s.backend3}[i], a, false})
	}
	for _, a := range append(pick(host4, host6), pick([]netip.Addr{bridge4, local4}, []netip.Addr{bridge6, local6})...) {
		cs = append(cs, caller{s.host, a, false})
	}
	return cs
}

// frontends are the addresses and ports by which a mapping can be called, the number-th of all.
func (s *site) frontends(number int, m nat.Mapping) (fs []netip.AddrPort) {
	addr, ports := m.Frontend.Addr(), []uint16{uint16(number) % (m.More + 1), 0, m.More, m.More / 2}
	if addr.IsValid() && !addr.IsUnspecified() {
		for _, by := range ports[:min(len(ports), int(m.More)+1)] {
			fs = append(fs, netip.AddrPortFrom(addr, m.Frontend.Port()+by))
		}
		return fs
	}
	hosts := append([]netip.Addr{bridge4}, host4...)
	if !m.Backend.Addr().Is4() {
		hosts = append([]netip.Addr{bridge6}, host6...)
	}
	for i, h := range hosts {
		fs = append(fs, netip.AddrPortFrom(h, m.Frontend.Port()+ports[i%len(ports)]))
	}
	return fs
}

// clients are all who call each mapping, or a port that was taken out of one.
func (s *site) clients() (all []client) {
	for i, m := range slices.Concat(s.mappings, s.holes) {
		frontends := s.frontends(i, m)
		for _, f := range frontends {
			for _, c := range s.callers(m.Backend.Addr().Is4()) {
				to := f
				if c.addr.IsLoopback() {
					if f != frontends[0] {
						continue
					}
					to = netip.AddrPortFrom(c.addr, f.Port())
				}
				all = append(all, client{ns: c.ns, addr: c.addr, mapping: m, frontend: to, hole: i >= len(s.mappings)})
			}
		}
	}
	return all
}
