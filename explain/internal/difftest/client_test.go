// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package difftest

import (
	"net/netip"

	"github.com/nftnat/nftnat/internal/lab"
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

// frontends are the addresses by which a mapping can be called.
func (s *site) frontends(i int) []netip.AddrPort {
	m := s.mappings[i]
	addr, port := m.Frontend.Addr(), m.Frontend.Port()
	if addr.IsValid() && !addr.IsUnspecified() {
		return []netip.AddrPort{m.Frontend}
	}
	hosts := append([]netip.Addr{bridge4}, host4...)
	if !m.Backend.Addr().Is4() {
		hosts = append([]netip.Addr{bridge6}, host6...)
	}
	var fs []netip.AddrPort
	for _, h := range hosts {
		fs = append(fs, netip.AddrPortFrom(h, port+uint16(i)%(m.More+1)))
	}
	return fs
}

// clients are all who call each mapping.
func (s *site) clients() (all []client) {
	for i, m := range s.mappings {
		for _, f := range s.frontends(i) {
			for _, c := range s.callers(m.Backend.Addr().Is4()) {
				to := f
				if c.addr.IsLoopback() {
					if f != s.frontends(i)[0] {
						continue
					}
					to = netip.AddrPortFrom(c.addr, f.Port())
				}
				all = append(all, client{ns: c.ns, addr: c.addr, mapping: m, frontend: to})
			}
		}
	}
	return all
}
