// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/host"
)

// apart is what rules and routes tell packets apart by: ports and addresses that two packets must lie
// on the same side of, for rules and routes to treat them alike.
type apart struct {
	// eachPort and eachAddr are set if something does with ports or addresses what is more than to
	// compare them.
	eachPort, eachAddr bool
	ports              map[uint16]struct{} // the first of each range
	addrs              map[netip.Addr]struct{}
	sortedPorts        []uint16
	sortedAddrs        []netip.Addr
	// met are the addresses that packets may have, sorted: a rule for others tells nothing apart. Nil: they
	// are not known.
	met []netip.Addr
}

// meets sets which addresses packets may have.
func (a *apart) meets(addrs map[netip.Addr]bool) {
	a.met = a.met[:0]
	for x := range addrs {
		if x.IsValid() {
			a.met = append(a.met, x.WithZone(""))
		}
	}
	slices.SortFunc(a.met, netip.Addr.Compare)
}

// misses reports whether no packet has an address of a range. Those of a link and of groups are not known.
func (a *apart) misses(from, to netip.Addr) bool {
	if a.met == nil || from.IsLinkLocalUnicast() || from.IsMulticast() || to.IsLinkLocalUnicast() || to.IsMulticast() || from == to && from == broadcast {
		return false
	}
	i, found := slices.BinarySearchFunc(a.met, from, netip.Addr.Compare)
	return !found && (i == len(a.met) || to.Less(a.met[i]))
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

func newApart() *apart {
	return &apart{ports: map[uint16]struct{}{}, addrs: map[netip.Addr]struct{}{}}
}

// portRange tells a range of ports from all others.
func (a *apart) portRange(from, to uint16) {
	a.ports[from] = struct{}{}
	if to != 1<<16-1 {
		a.ports[to+1] = struct{}{}
	}
}

// addrRange tells a range of addresses from all others.
func (a *apart) addrRange(from, to netip.Addr) {
	a.addrs[from] = struct{}{}
	if next := to.Next(); next.IsValid() {
		a.addrs[next] = struct{}{}
	}
}

func (a *apart) prefix(p netip.Prefix) {
	if !p.IsValid() || p.Bits() == 0 {
		return
	}
	a.addrRange(p.Masked().Addr(), last(p))
}

// last is the last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	end, _ := netip.AddrFromSlice(b)
	return end
}

// sort ends the collection.
func (a *apart) sort() {
	a.sortedPorts = a.sortedPorts[:0]
	for p := range a.ports {
		a.sortedPorts = append(a.sortedPorts, p)
	}
	slices.Sort(a.sortedPorts)
	a.sortedAddrs = a.sortedAddrs[:0]
	for x := range a.addrs {
		a.sortedAddrs = append(a.sortedAddrs, x)
	}
	slices.SortFunc(a.sortedAddrs, netip.Addr.Compare)
}

// port returns a number that ports have in common that nothing tells apart.
func (a *apart) port(p uint16) int {
	if a.eachPort {
		return int(p)
	}
	i, found := slices.BinarySearch(a.sortedPorts, p)
	if found {
		i++
	}
	return i
}

// addr returns such a number of an address.
func (a *apart) addr(x netip.Addr) int {
	i, found := slices.BinarySearchFunc(a.sortedAddrs, x, netip.Addr.Compare)
	if found {
		i++
	}
	return i
}

// The layers of a packet whose bytes are loaded, and what they are of.
const (
	spanNetwork4 = iota + 1
	spanNetwork6
	spanTransport
	spanPort // two bytes of a port
	spanAddr // an address
	spanFamily
)

// span is what a register has: bytes of a packet from an offset, as far as they are looked at.
type span struct {
	layer, offset, length int
	mask                  []byte // nil: all bits
}

// fields of the layers that tell mappings apart.
type field struct {
	offset, length int
	port           bool
}

var (
	fields4 = []field{{12, 4, false}, {16, 4, false}}
	fields6 = []field{{8, 16, false}, {24, 16, false}}
	fieldsT = []field{{0, 2, true}, {2, 2, true}}
	fieldsP = []field{{0, 2, true}}
)

func (s span) fields() []field {
	switch s.layer {
	case spanNetwork4:
		return fields4
	case spanNetwork6:
		return fields6
	case spanTransport:
		return fieldsT
	case spanPort:
		return fieldsP
	case spanAddr:
		return []field{{0, s.length, false}}
	}
	return nil
}

// constants tells packets apart by whether a span lies below, at or above two values of its length.
func (a *apart) constants(s span, from, to []byte) {
	for _, f := range s.fields() {
		begin, end := max(f.offset, s.offset), min(f.offset+f.length, s.offset+s.length)
		if begin >= end {
			continue
		}
		at, n := begin-s.offset, end-begin
		if begin != f.offset || len(from) < at+n || len(to) < at+n {
			a.each(f)
			continue
		}
		mask := make([]byte, f.length)
		for i := range n {
			mask[i] = 0xff
			if s.mask != nil {
				if at+i >= len(s.mask) {
					a.each(f)
					return
				}
				mask[i] = s.mask[at+i]
			}
		}
		if !contiguous(mask) {
			a.each(f)
			continue
		}
		low, high := make([]byte, f.length), make([]byte, f.length)
		copy(low, from[at:at+n])
		copy(high, to[at:at+n])
		for i := range high {
			high[i] |= ^mask[i]
		}
		// A value may be one of a range of which only an end is compared.
		for _, v := range [][]byte{low, high} {
			a.value(f, v, mask)
		}
	}
}

// value tells packets apart by a value of a field.
func (a *apart) value(f field, v, mask []byte) {
	low, high := slices.Clone(v), slices.Clone(v)
	for i := range v {
		low[i] &= mask[i]
		high[i] |= ^mask[i]
	}
	if f.port {
		a.portRange(binary.BigEndian.Uint16(low), binary.BigEndian.Uint16(high))
		return
	}
	from, ok := netip.AddrFromSlice(low)
	to, _ := netip.AddrFromSlice(high)
	if ok {
		a.addrRange(from, to)
	}
}

// each gives up to tell values of a field apart otherwise than one by one.
func (a *apart) each(f field) {
	if f.port {
		a.eachPort = true
	} else {
		a.eachAddr = true
	}
}

// opaque gives up on all that a span has.
func (a *apart) opaque(s span) {
	for _, f := range s.fields() {
		if max(f.offset, s.offset) < min(f.offset+f.length, s.offset+s.length) {
			a.each(f)
		}
	}
}

// contiguous reports whether all set bits of a mask come first.
func contiguous(mask []byte) bool {
	ended := false
	for _, b := range mask {
		for i := 7; i >= 0; i-- {
			set := b>>i&1 != 0
			if set && ended {
				return false
			}
			ended = ended || !set
		}
	}
	return true
}

// routed collects what routes and policy rules tell packets apart by.
func (d *doctor) routed(a *apart) {
	for _, is4 := range []bool{true, false} {
		tables := []uint32{unix.RT_TABLE_MAIN, unix.RT_TABLE_LOCAL, unix.RT_TABLE_DEFAULT}
		list, err := d.facts.PolicyRules(is4)
		if err != nil {
			a.eachAddr, a.eachPort = true, true
			continue
		}
		for _, r := range list {
			a.prefix(r.From)
			a.prefix(r.To)
			for _, p := range []host.PortMatch{r.SrcPorts, r.DstPorts} {
				switch {
				case p.Mask != 0 && p.Mask != 1<<16-1:
					a.eachPort = true
				case p != host.PortMatch{}:
					a.portRange(p.First, max(p.First, p.Last))
				}
			}
			if r.Unread {
				a.eachAddr, a.eachPort = true, true
			}
			if r.Table != 0 && !slices.Contains(tables, r.Table) {
				tables = append(tables, r.Table)
			}
		}
		for _, t := range tables {
			routes, err := d.facts.Routes(is4, t)
			if err != nil {
				a.eachAddr = true
				continue
			}
			for _, r := range routes {
				a.prefix(r.Dst)
				a.prefix(r.Src)
				d.gateways[r.Gateway], d.gateways[r.PrefSrc] = true, true
				a.eachAddr = a.eachAddr || len(r.Hops) > 1
			}
		}
	}
}
