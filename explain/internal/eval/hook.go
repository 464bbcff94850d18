// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

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

// entries lists what runs at a hook, in the kernel's order. Legacy tables have no age: they come
// behind others of their priority, or before them if legacyFirst. Both says whether that matters.
func entries(rs *rules.Ruleset, h Hook, p *Packet, legacyFirst bool) (list []entry, both bool) {
	var nat []entry
	for _, t := range rs.Tables {
		if t.Dormant() {
			continue
		}
		for _, c := range t.Chains {
			if c.Base == nil || !runs(h, p, t, c.Base) {
				continue
			}
			e := entry{priority: c.Base.Priority, chain: c, age: age{t.Handle, c.Handle}}
			if t.Legacy && legacyFirst {
				e.age.table = math.MaxUint64
			}
			if c.Base.Type == "nat" && h.inet() {
				nat = append(nat, e)
			} else {
				list = append(list, e)
			}
		}
	}
	both = sortEntries(nat)
	if h == Prerouting || h == Output {
		list = append(list, entry{priority: conntrackPriority, conntrack: true})
	}
	if h.inet() && h != Forward {
		e := entry{priority: dstnatPriority, nat: make([]*rules.Chain, 0, len(nat))}
		if h == Postrouting || h == Input {
			e.priority = srcnatPriority
		}
		for i, n := range nat {
			e.nat = append(e.nat, n.chain)
			if i == 0 || n.age.compare(e.age) < 0 {
				e.age = n.age // the first one brought the nat hook with it
			}
		}
		list = append(list, e)
	}
	return list, sortEntries(list) || both
}

// sortEntries reports whether a legacy chain and another one have the same priority.
func sortEntries(list []entry) (both bool) {
	slices.SortStableFunc(list, func(a, b entry) int {
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
