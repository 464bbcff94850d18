// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package answers

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
)

// Protocol marks the rules of engines (FRA_PROTOCOL). No program is known to use the number:
// rt_protos of iproute2 names others.
const Protocol = 78

// The marks are from FirstMark to LastMark. Of the bits that programs are known to test alone,
// they have none: 0x2000 (the CNI plugin portmap), 0x4000 and 0x8000 (kube-proxy), 0xf00
// (Cilium), 0xff0000 (Tailscale), 0xffff0000 (Calico).
const (
	FirstMark = 0x1000
	LastMark  = 0x10ff
)

const exactMask = 1<<32 - 1

// State is what an engine records of marks and addresses, for both families.
type State struct {
	// Marks are those for which it may have added rules, and By those by the address that a
	// client has called.
	Marks map[Mark]struct{}
	By    map[netip.Addr]uint32
	// Proxied are addresses of this host from which it cannot reach a backend, because
	// another table is for them.
	Proxied map[netip.Addr]struct{}
}

// Mark is a mark for the packets of a family.
type Mark struct {
	Is4  bool
	Mark uint32
}

// NewState returns a state that records nothing.
func NewState() State {
	return State{Marks: map[Mark]struct{}{}, By: map[netip.Addr]uint32{}, Proxied: map[netip.Addr]struct{}{}}
}

// Len returns how many entries there are.
func (s State) Len() int { return len(s.Marks) + len(s.By) + len(s.Proxied) }

// IsOwn reports whether an engine with this record has added the rule.
func (s State) IsOwn(r hostnet.Rule) bool {
	_, ok := s.Marks[Mark{r.Is4, r.Mark}]
	return ok && r.Protocol == Protocol && r.Mask == exactMask
}

// Want is what the rules of a family require.
type Want struct {
	By map[netip.Addr]uint32
	// Rules are the rules for each mark, in the order in which they are to be asked.
	Rules map[uint32][]hostnet.Rule
	// Unmarked are addresses for which there is no mark left.
	Unmarked []netip.Addr
}

// Plan returns what is needed for packets to these addresses, which are of one family and
// sorted. rules are all of that family. Different tables get different marks as far as there
// are enough.
func Plan(table string, rules []hostnet.Rule, addrs []netip.Addr, recorded State) Want {
	w := Want{By: map[netip.Addr]uint32{}, Rules: map[uint32][]hostnet.Rule{}}
	others := slices.DeleteFunc(slices.Clone(rules), recorded.IsOwn)
	marks := map[string]uint32{} // by the rules that hold for an address
	for _, a := range addrs {
		from := rulesFrom(others, a)
		if len(from) == 0 {
			continue
		}
		text := textOf(table, from)
		mark, ok := marks[text]
		if !ok {
			if mark, ok = w.choose(text, others); !ok {
				w.Unmarked = append(w.Unmarked, a)
				continue
			}
			marks[text], w.Rules[mark] = mark, rulesFor(mark, from)
		}
		w.By[a] = mark
	}
	return w
}

// rulesFrom returns the rules that are for packets from the address and can be for its
// answers.
func rulesFrom(rules []hostnet.Rule, a netip.Addr) (from []hostnet.Rule) {
	for _, r := range rules {
		if !r.Opaque && r.From.IsValid() && r.From.Contains(a) && r.IIF == "" && r.Mask == 0 && r.Action != unix.FR_ACT_NOP {
			from = append(from, r)
		}
	}
	return from
}

// HasSource reports whether a rule can be for packets from the address alone, whatever else
// it asks for.
func HasSource(rules []hostnet.Rule, a netip.Addr) bool {
	return slices.ContainsFunc(rules, func(r hostnet.Rule) bool { return r.From.IsValid() && r.From.Contains(a) })
}

func textOf(table string, rules []hostnet.Rule) string {
	var b strings.Builder
	b.WriteString(table)
	for _, r := range rules {
		fmt.Fprintf(&b, "\n%s", r)
	}
	return b.String()
}

// choose chooses a mark by the text, so that the same host gets the same marks, whatever was
// before.
func (w *Want) choose(text string, others []hostnet.Rule) (uint32, bool) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(text)) // never fails
	const count = LastMark - FirstMark + 1
	for i := range uint32(count) {
		mark := FirstMark + (h.Sum32()+i)%count
		if _, taken := w.Rules[mark]; !taken && !tells(others, mark) {
			return mark, true
		}
	}
	return 0, false
}

// tells reports whether a rule tells packets with the mark from those with none.
func tells(rules []hostnet.Rule, mark uint32) bool {
	return slices.ContainsFunc(rules, func(r hostnet.Rule) bool {
		return r.Mask != 0 && (mark&r.Mask == r.Mark) != (r.Mark == 0)
	})
}

// rulesFor returns the rules for a mark that say what these say for an address.
//
// Services of the host answer a client on its own network by the main table, or not at all
// if the administrator's table lacks that network. Published ports have always answered it, so
// routes of the main table go first that are not the default route; but not before those of
// the administrator's table.
//
// The first rule is for look-ups that ask where an answer has come from, with the mark:
// rp_filter with src_valid_mark, and "fib saddr . mark" of nftables.
func rulesFor(mark uint32, from []hostnet.Rule) []hostnet.Rule {
	first := hostnet.Rule{
		Is4: from[0].Is4, Priority: from[0].Priority, Protocol: Protocol, IIF: "lo",
		Mark: mark, Mask: exactMask, Action: unix.FR_ACT_TO_TBL, Table: unix.RT_TABLE_MAIN,
	}
	rules := []hostnet.Rule{first}
	for _, r := range from {
		r.From, r.Protocol, r.Mark, r.Mask = netip.Prefix{}, Protocol, mark, exactMask
		if r.Action == unix.FR_ACT_TO_TBL && r.Table == unix.RT_TABLE_MAIN || r.MinLength != 0 {
			rules = append(rules, r)
			continue
		}
		specific := r
		specific.MinLength = 1
		if r.Action == unix.FR_ACT_TO_TBL {
			rules = append(rules, specific)
		}
		specific.Action, specific.Table, specific.Goto = unix.FR_ACT_TO_TBL, unix.RT_TABLE_MAIN, 0
		rules = append(rules, specific, r)
	}
	return rules
}
