// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rivals

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// match applies a match of iptables (include/uapi/linux/netfilter/xt_*.h), in host byte order.
func (s *state) match(name string, revision uint32, info []byte) error {
	u16 := func(at int) uint16 { return binary.NativeEndian.Uint16(info[at:]) }
	switch name {
	case "comment":
	case "tcp", "udp":
		inverted := 8 // of struct xt_udp
		proto := udp
		if name == "tcp" {
			inverted, proto = 11, tcp
		}
		if len(info) <= inverted {
			return errUnreadable
		}
		const invertedSource, invertedPort = 1, 2
		flags := info[inverted]
		if u16(0) != 0 || u16(2) != 1<<16-1 || flags&^invertedPort != 0 {
			s.restrict()
		}
		if name == "tcp" && (info[8] != 0 || info[9] != 0) { // an option, or flags
			s.restrict()
		}
		s.each(func(b box) []box {
			b.protos &= proto
			return []box{b}
		})
		first, last := u16(4), u16(6)
		if first == 0 && last == 1<<16-1 {
			return nil
		}
		return s.ports(first, last, flags&invertedPort != 0)
	case "multiport":
		return s.multiport(revision, info)
	case "addrtype":
		return s.addrType(revision, info)
	case "conntrack", "state", "mark", "connmark", "physdev", "mac", "owner", "statistic", "limit", "hashlimit",
		"recent", "time", "pkttype", "cgroup", "socket", "rpfilter", "icmp", "icmp6":
		s.restrict()
	default:
		return errUnreadable
	}
	return nil
}

func (s *state) ports(first, last uint16, inverted bool) error {
	low, high := binary.BigEndian.AppendUint16(nil, first), binary.BigEndian.AppendUint16(nil, last)
	if inverted {
		return s.unequal(slot{field: port, len: 2}, low, high)
	}
	return s.equal(slot{field: port, len: 2}, low, high)
}

// multiport is struct xt_multiport_v1.
func (s *state) multiport(revision uint32, info []byte) error {
	const (
		source, destination, maxPorts = 0, 1, 15
		portsAt, rangesAt, invertAt   = 2, 2 + 2*maxPorts, 2 + 3*maxPorts
	)
	if revision != 1 || len(info) <= invertAt || info[1] > maxPorts {
		return errUnreadable
	}
	switch info[0] {
	case source:
		s.restrict()
		return nil
	case destination:
	default: // either of both
		return errUnreadable
	}
	var all []box
	before := s.packets
	for i := 0; i < int(info[1]); i++ {
		first := binary.NativeEndian.Uint16(info[portsAt+2*i:])
		last := first
		if info[rangesAt+i] != 0 && i+1 < int(info[1]) {
			i++
			last = binary.NativeEndian.Uint16(info[portsAt+2*i:])
		}
		if info[invertAt] == 0 {
			s.packets = before
		}
		if err := s.ports(first, last, info[invertAt] != 0); err != nil {
			return err
		}
		all = append(all, s.packets...)
	}
	if info[invertAt] == 0 {
		s.packets = all
	}
	return nil
}

// addrType is struct xt_addrtype_info_v1.
func (s *state) addrType(revision uint32, info []byte) error {
	const (
		size              = 8
		local             = 1 << unix.RTN_LOCAL
		invertSource      = 1
		invertDestination = 2
	)
	if revision != 1 || len(info) < size {
		return errUnreadable
	}
	source, destination, flags := binary.NativeEndian.Uint16(info), binary.NativeEndian.Uint16(info[2:]), binary.NativeEndian.Uint32(info[4:])
	if source != 0 || flags&^invertDestination != 0 {
		s.restrict()
	}
	if destination != 0 && (destination&local != 0) == (flags&invertDestination != 0) {
		s.packets = nil
	}
	return nil
}

// target applies a target of iptables.
func (s *state) target(name string) error {
	switch name {
	case "DNAT", "REDIRECT", "NETMAP":
		s.finish(translates, s.packets)
	case "SNAT", "MASQUERADE":
		s.finish(ends, s.packets)
	case "LOG", "NFLOG", "MARK", "CONNMARK", "TRACE":
	default:
		return errUnreadable
	}
	return nil
}
