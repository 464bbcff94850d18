// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portholder

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// space is the ports of a protocol at an address, as in [nat.Mapping].
type space struct {
	proto nat.Proto
	addr  netip.Addr
}

// span is consecutive ports that lead to the same ports of a backend.
type span struct {
	first, last uint16
	backend     netip.Addr
	// served says that the proxies serve them.
	served bool
}

// alike reports whether two spans differ in their ports alone.
func (s span) alike(o span) bool { return s.backend == o.backend && s.served == o.served }

func spaceOf(f portset.Frontend) space { return space{f.Proto, f.AddrPort.Addr()} }

func rangeOf(s space, first, last uint16) bpf.Range {
	r := bpf.Range{Proto: unix.IPPROTO_TCP, Addr: s.addr, First: first, Last: last}
	if s.proto == nat.UDP {
		r.Proto = unix.IPPROTO_UDP
	}
	return r
}

// find returns the first span that ends at the port or after, and whether it has the port.
func find(spans []span, port uint16) (i int, ok bool) {
	i, _ = slices.BinarySearchFunc(spans, port, func(s span, port uint16) int { return int(s.last) - int(port) })
	return i, i < len(spans) && spans[i].first <= port
}

// cut returns spans without some ports.
func cut(spans []span, first, last uint16) []span {
	i, _ := find(spans, first)
	j := i
	var rest []span
	for ; j < len(spans) && spans[j].first <= last; j++ {
		if left := spans[j]; left.first < first {
			left.last = first - 1
			rest = append(rest, left)
		}
		if right := spans[j]; right.last > last {
			right.first = last + 1
			rest = append(rest, right)
		}
	}
	return slices.Concat(spans[:i], rest, spans[j:])
}
