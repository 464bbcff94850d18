// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/internal/rules"
)

// Hook is a place in the kernel where rules see a packet.
type Hook int

// The hooks. Ingress and Egress are those of one device, Packet.In or Packet.Out. Ingress has the
// chains of inet too.
const (
	Ingress Hook = iota
	Prerouting
	Input
	Forward
	Output
	Postrouting
	Egress
	BridgePrerouting
	BridgeInput
	BridgeForward
	BridgeOutput
	BridgePostrouting
	ArpInput
	ArpOutput
)

func (h Hook) String() string {
	switch h {
	case Ingress:
		return "ingress"
	case Prerouting:
		return "prerouting"
	case Input:
		return "input"
	case Forward:
		return "forward"
	case Output:
		return "output"
	case Postrouting:
		return "postrouting"
	case Egress:
		return "egress"
	case BridgePrerouting:
		return "bridge prerouting"
	case BridgeInput:
		return "bridge input"
	case BridgeForward:
		return "bridge forward"
	case BridgeOutput:
		return "bridge output"
	case BridgePostrouting:
		return "bridge postrouting"
	case ArpInput:
		return "arp input"
	case ArpOutput:
		return "arp output"
	}
	return fmt.Sprintf("Hook(%d)", int(h))
}

// number is the kernel's number of the hook: NF_INET_*, NF_BR_*, NF_NETDEV_* or NF_ARP_*.
func (h Hook) number() uint32 {
	switch h {
	case Prerouting, Input, Forward, Output, Postrouting:
		return uint32(h - Prerouting)
	case BridgePrerouting, BridgeInput, BridgeForward, BridgeOutput, BridgePostrouting:
		return uint32(h - BridgePrerouting)
	case Ingress, ArpInput:
		return 0
	case Egress, ArpOutput:
		return 1
	}
	return math.MaxUint32
}

func (h Hook) inet() bool { return h >= Prerouting && h <= Postrouting }

func (h Hook) bridge() bool { return h >= BridgePrerouting && h <= BridgePostrouting }

// nfInetIngress is NF_INET_INGRESS.
const nfInetIngress = 5

// Priorities of what the kernel itself does at a hook.
const (
	conntrackPriority = -200
	dstnatPriority    = -100
	srcnatPriority    = 100
)

// entry is something that runs at a hook: a base chain, connection tracking, or the nat hook, which
// calls the nat chains. Whatever their priority, it is at one place.
type entry struct {
	priority  int32
	age       age
	chain     *rules.Chain
	conntrack bool
	nat       []*rules.Chain
}

// age orders chains of one priority: the newest runs first.
type age struct{ table, chain uint64 }

func (a age) compare(b age) int {
	switch {
	case a.table != b.table:
		if a.table < b.table {
			return -1
		}
		return 1
	case a.chain < b.chain:
		return -1
	case a.chain > b.chain:
		return 1
	}
	return 0
}

// sequence is what no dump tells of things that have one priority.
type sequence struct {
	// legacyFirst: tables of iptables-legacy, which have no age, come before others.
	legacyFirst bool
	// swapped: connection tracking is younger than the chains, and the nat hook older. Both stay as long
	// as anything needs them, and may be older than all that is left.
	swapped bool
}

// possible are those of which one holds.
func (o sequence) possible() []sequence {
	list := []sequence{{}}
	if o.legacyFirst {
		list = append(list, sequence{legacyFirst: true})
	}
	if o.swapped {
		for _, other := range list {
			list = append(list, sequence{legacyFirst: other.legacyFirst, swapped: true})
		}
	}
	return list
}

// entries lists what runs at a hook, in the kernel's order. The fields of unknown are set if they matter.
func entries(rs *rules.Ruleset, h Hook, p *Packet, o sequence) (list []entry, unknown sequence) {
	var nat []entry
	var first *age // of nat chains of all hooks: the first one brings the nat hooks
	for _, t := range rs.Tables {
		if t.Dormant() {
			continue
		}
		for _, c := range t.Chains {
			if c.Base == nil {
				continue
			}
			e := entry{priority: c.Base.Priority, chain: c, age: age{t.Handle, c.Handle}}
			if t.Legacy && o.legacyFirst {
				e.age.table = math.MaxUint64
			}
			isNat := c.Base.Type == "nat" && h.inet()
			if isNat && ofFamily(t, p) && (first == nil || e.age.compare(*first) < 0) {
				first = &e.age
			}
			switch {
			case !runs(h, p, t, c.Base):
			case isNat:
				nat = append(nat, e)
			default:
				list = append(list, e)
			}
		}
	}
	unknown.legacyFirst = sortEntries(nat)
	var tracking, natting entry
	if h == Prerouting || h == Output {
		tracking = entry{priority: conntrackPriority, conntrack: true}
	}
	if h.inet() && h != Forward {
		natting = entry{priority: dstnatPriority, nat: make([]*rules.Chain, 0, len(nat))}
		if h == Postrouting || h == Input {
			natting.priority = srcnatPriority
		}
		for _, n := range nat {
			natting.nat = append(natting.nat, n.chain)
		}
		if first != nil {
			natting.age = *first
		}
	}
	for _, e := range list {
		mayBeYounger := first == nil || e.age.compare(*first) < 0
		if mayBeYounger && (tracking.conntrack && e.priority == tracking.priority || len(nat) > 0 && e.priority == natting.priority) {
			unknown.swapped = true
		}
	}
	if o.swapped {
		tracking.age, natting.age = age{math.MaxUint64, math.MaxUint64}, age{}
	}
	if tracking.conntrack {
		list = append(list, tracking)
	}
	if natting.nat != nil {
		list = append(list, natting)
	}
	legacy := sortEntries(list)
	return list, sequence{legacy || unknown.legacyFirst, unknown.swapped}
}

// ofFamily reports whether a table may see packets of an Ethernet type.
func ofFamily(t *rules.Table, p *Packet) bool {
	switch t.Family {
	case unix.NFPROTO_INET:
		return true
	case unix.NFPROTO_IPV4:
		return p.EtherType == unix.ETH_P_IP
	case unix.NFPROTO_IPV6:
		return p.EtherType == unix.ETH_P_IPV6
	}
	return false
}

// sortEntries reports whether a legacy chain and another one have the same priority.
func sortEntries(list []entry) (both bool) {
	order.Sort(list, func(a, b entry) int {
		if a.priority != b.priority {
			if a.priority < b.priority {
				return -1
			}
			return 1
		}
		return b.age.compare(a.age)
	})
	for i := 1; i < len(list); i++ {
		a, b := list[i-1], list[i]
		if a.priority == b.priority && a.chain != nil && b.chain != nil && a.chain.Table.Legacy != b.chain.Table.Legacy {
			both = true
		}
	}
	return both
}

// runs reports whether a base chain is of the hook and for such packets.
func runs(h Hook, p *Packet, t *rules.Table, b *rules.Base) bool {
	ip := p.EtherType == unix.ETH_P_IP || p.EtherType == unix.ETH_P_IPV6
	switch t.Family {
	case unix.NFPROTO_INET:
		if h == Ingress {
			return ip && b.Hook == nfInetIngress && hasDevice(b, p.In.Name)
		}
		return ip && h.inet() && b.Hook == h.number()
	case unix.NFPROTO_IPV4:
		return h.inet() && p.EtherType == unix.ETH_P_IP && b.Hook == h.number()
	case unix.NFPROTO_IPV6:
		return h.inet() && p.EtherType == unix.ETH_P_IPV6 && b.Hook == h.number()
	case unix.NFPROTO_BRIDGE:
		return h.bridge() && b.Hook == h.number()
	case unix.NFPROTO_ARP:
		return (h == ArpInput || h == ArpOutput) && b.Hook == h.number()
	case unix.NFPROTO_NETDEV:
		return h == Ingress && b.Hook == h.number() && hasDevice(b, p.In.Name) ||
			h == Egress && b.Hook == h.number() && hasDevice(b, p.Out.Name)
	}
	return false
}

func hasDevice(b *rules.Base, name string) bool {
	return slices.ContainsFunc(b.Devices, func(d string) bool {
		if prefix, ok := strings.CutSuffix(d, "*"); ok {
			return strings.HasPrefix(name, prefix)
		}
		return d == name
	})
}
