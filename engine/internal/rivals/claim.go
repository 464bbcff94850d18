// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rivals

import (
	"net/netip"

	"github.com/nftnat/nftnat/nat"
)

// Hook is where a chain sees packets.
type Hook int

// The hooks at which destinations are translated.
const (
	Prerouting Hook = iota // what comes in from others
	Output                 // what this host sends
)

// String returns the hook as nft(8) names it.
func (h Hook) String() string {
	names := [...]string{Prerouting: "prerouting", Output: "output"}
	if h < 0 || int(h) >= len(names) {
		return "invalid"
	}
	return names[h]
}

// Order is whether a rule sees packets before or after the caller's table. The first that
// translates a connection gets it.
type Order int

// The orders. At the same priority the kernel asks the chain first that was added last
// (nf_hook_entries_grow in net/netfilter/core.c), and tells only which table was.
const (
	After  Order = iota
	Unsure       // the table was made before the caller's, but the chain may have been added later
	Before
)

// String returns the order in a word: "before".
func (o Order) String() string {
	names := [...]string{After: "after", Unsure: "unsure", Before: "before"}
	if o < 0 || int(o) >= len(names) {
		return "invalid"
	}
	return names[o]
}

// Claim says that a rule of another table translates the destination of packets.
type Claim struct {
	// Family and Table are those of the table, as nft(8) names them: "ip", "nat". Chain has
	// the rule.
	Family, Table, Chain string
	// Hook is that of the base chain from which the rule is reached.
	Hook Hook
	// Base is the base chain from which the rule is reached, and Order whether it sees packets
	// before the caller's table.
	Base  Base
	Order Order
	// Some is whether the rule has other conditions than port and address, such as the
	// interface, and so may be for some packets only.
	Some bool
	box  box
}

// Base is a base chain, by the kernel's numbers of its table and of itself.
type Base struct{ Table, Chain uint64 }

// Rivals are the claims of other tables. The zero value has none.
type Rivals struct {
	// Table is the kernel's number of the caller's table; zero: there is none.
	Table uint64
	// Bases are the base chains of other tables that translate destinations.
	Bases  map[Base]bool
	claims []Claim
	// ports has a bit for each port that some claim has, by protocol.
	ports *[2][1 << 16 / 64]uint64
}

// Empty reports whether there are no claims.
func (r *Rivals) Empty() bool { return len(r.claims) == 0 }

func (r *Rivals) add(c Claim) {
	r.claims = append(r.claims, c)
	if r.ports == nil {
		r.ports = new([2][1 << 16 / 64]uint64)
	}
	for i, proto := range [...]protocols{tcp, udp} {
		if c.box.protos&proto == 0 {
			continue
		}
		for port := int(c.box.first); port <= int(c.box.last); port++ {
			r.ports[i][port/64] |= 1 << (port % 64)
		}
	}
}

// Part is the claim to some consecutive ports.
type Part struct {
	Claim
	First, Last uint16
}

// In returns the claims to ports from first to last at an address, as Of does for one.
func (r *Rivals) In(proto nat.Proto, at netip.Addr, first, last uint16, local []netip.Addr) (parts []Part) {
	for port := int(first); port <= int(last); {
		c, ok := r.Of(proto, at, uint16(port), local)
		end := int(last)
		for i := range r.claims { // up to here all are the same
			if b := &r.claims[i].box; int(b.first) > port {
				end = min(end, int(b.first)-1)
			} else if int(b.last) >= port {
				end = min(end, int(b.last))
			}
		}
		if n := len(parts); ok && n != 0 && int(parts[n-1].Last)+1 == port && parts[n-1].Claim == c {
			parts[n-1].Last = uint16(end)
		} else if ok {
			parts = append(parts, Part{c, uint16(port), uint16(end)})
		}
		port = end + 1
	}
	return parts
}

// Of returns the claim to a port at an address of this host; the zero Addr is any, and the
// unspecified ones any of a family, of the local ones. Of several it returns one that sees
// packets first, and of these one for packets of others.
func (r *Rivals) Of(proto nat.Proto, at netip.Addr, port uint16, local []netip.Addr) (found Claim, ok bool) {
	i, protos := 0, tcp
	if proto == nat.UDP {
		i, protos = 1, udp
	}
	if r.ports == nil || r.ports[i][port/64]&(1<<(port%64)) == 0 {
		return Claim{}, false
	}
	rank := func(c Claim) int {
		n := 2 * int(c.Order)
		if c.Hook == Prerouting {
			n++
		}
		return n
	}
	for _, c := range r.claims {
		switch {
		case c.box.protos&protos == 0, port < c.box.first, port > c.box.last, !c.box.isFor(at, local):
		case at.IsLoopback() && c.Hook == Prerouting: // nothing to it comes in
		case !ok || rank(c) > rank(found):
			found, ok = c, true
		}
	}
	return found, ok
}
