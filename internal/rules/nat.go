// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

func addrKind(family uint32) *kind {
	if family == unix.NFPROTO_IPV6 {
		return kindIPv6
	}
	return kindIPv4
}

// bracketed prints an address that a port follows.
func (s *printing) bracketed(r Register, k *kind) string {
	text := s.argument(r, k, false)
	if o := s.at(r); k == kindIPv6 && o != nil && o.constant {
		return "[" + text + "]"
	}
	return text
}

// ports prints a port or a range of ports, with what leads to it.
func (s *printing) ports(lead string, low, high Register) string {
	if low == 0 {
		return ""
	}
	s.deps = [inner + 1]*dependency{}
	text := lead + " :" + s.argument(low, kindPort, false)
	if lead == "" {
		text = ":" + s.argument(low, kindPort, false)
	}
	if high != 0 && high != low {
		text += "-" + s.argument(high, kindPort, false)
	}
	return text
}

func natFlags(flags uint32) string {
	const random, persistent, fully = 1 << 2, 1 << 3, 1 << 4
	var names []string
	for _, f := range [...]name{{random, "random"}, {fully, "fully-random"}, {persistent, "persistent"}} {
		if uint64(flags)&f.value != 0 {
			names = append(names, f.name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return " " + strings.Join(names, ",")
}

func (s *printing) nat(e Nat) {
	const netmap = 1 << 6
	text := choose(e.Type == unix.NFT_NAT_DNAT, "dnat", "snat")
	if e.AddrMin == 0 && e.PortMin == 0 {
		s.say(text + natFlags(e.Flags))
		return
	}
	k := addrKind(e.Family)
	data := s.at(e.AddrMin)
	mapped := e.AddrMin != 0 && data != nil && data.set != nil && int(data.set.DataLen) > k.width // with ports, or intervals
	if (s.table.Family == unix.NFPROTO_INET || mapped) && (e.Family == unix.NFPROTO_IPV4 || e.Family == unix.NFPROTO_IPV6) {
		text += " " + Family(e.Family).String()
	}
	text += choose(e.Flags&netmap != 0, " prefix", "") + " to"
	if e.AddrMin != 0 {
		text += " " + s.natAddr(e, k, mapped)
	}
	if e.PortMin != 0 && !mapped {
		text += choose(e.AddrMin == 0, " ", "") + s.ports("", e.PortMin, e.PortMax)
	}
	s.say(text + natFlags(e.Flags))
}

func (s *printing) natAddr(e Nat, k *kind, mapped bool) string {
	low := s.argument(e.AddrMin, k, false)
	brackets := func(a string) string {
		if o := s.at(e.AddrMin); k == kindIPv6 && e.PortMin != 0 && o != nil && o.constant {
			return "[" + a + "]"
		}
		return a
	}
	if e.AddrMax == 0 || e.AddrMax == e.AddrMin || mapped {
		return brackets(low)
	}
	from, to := s.at(e.AddrMin), s.at(e.AddrMax)
	if from != nil && to != nil && from.constant && to.constant {
		if n, ok := prefixOf(from.data, to.data); ok {
			return fmt.Sprintf("%s/%d", low, n)
		}
	}
	return brackets(low) + "-" + brackets(s.argument(e.AddrMax, k, false))
}

// prefixOf returns the length of the prefix that a range of addresses is.
func prefixOf(low, high []byte) (n int, ok bool) {
	if len(low) != len(high) {
		return 0, false
	}
	mask := make([]byte, len(low))
	for i := range low {
		mask[i] = ^(low[i] ^ high[i])
	}
	n, ok = maskLen(mask)
	if !ok {
		return 0, false
	}
	for i := range low { // without bits behind the prefix
		if low[i]&^mask[i] != 0 || high[i]|mask[i] != 0xff {
			return 0, false
		}
	}
	return n, true
}
