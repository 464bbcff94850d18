// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/migrate/internal/chains"
	"github.com/nftnat/nftnat/migrate/internal/packets"
	"github.com/nftnat/nftnat/nat"
)

// Removed is what Remove has deleted, and what it has left, with the reason.
type Removed struct {
	Rules []string
	Kept  []LeftOut
}

// removeAttempts bounds how often rules are read again because another program has changed a ruleset.
const removeAttempts = 8

// Remove deletes the rules of a source for which mappings that nftnat has published do all that the
// rules do, in one transaction, which the kernel refuses if any ruleset has changed meanwhile. Rules
// that do anything else are kept.
func Remove(ctx context.Context, o Options, published []nat.Mapping) (Removed, error) {
	o.File, o.Data = "", nil
	for range removeAttempts {
		rs, err := readRules(ctx, o)
		if err != nil {
			return Removed{}, fmt.Errorf("remove rules: %w", err)
		}
		done, ops, err := removal(rs, o.Source, published)
		if err != nil {
			return Removed{}, fmt.Errorf("remove rules: %w", err)
		}
		if len(ops) == 0 {
			return done, nil
		}
		err = inNetNS(o.NetNS, func(ns int) error { return chains.Delete(ns, rs.Generation, ops) })
		if errors.Is(err, unix.ERESTART) {
			continue
		}
		if err != nil {
			return Removed{}, fmt.Errorf("remove rules, of which none was removed: %w", err)
		}
		return done, nil
	}
	return Removed{}, errors.New("remove rules, of which none was removed: other programs change their rules all the time")
}

func inNetNS(path string, f func(ns int) error) error {
	if path == "" {
		return f(0)
	}
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer func() { _ = ns.Close() }() // nothing was written
	return f(int(ns.Fd()))
}

// ruleID is a rule of the kernel.
type ruleID struct {
	table  *chains.Table
	handle uint64
	chain  string
	text   string // of a rule without a handle
}

// removal decides which rules are deleted.
func removal(rs *chains.Ruleset, source Source, published []nat.Mapping) (done Removed, ops []chains.Deletion, err error) {
	pre, err := rs.Walk(chains.Prerouting)
	if err != nil {
		return Removed{}, nil, err
	}
	out, err := rs.Walk(chains.Output)
	if err != nil {
		return Removed{}, nil, err
	}
	idx := indexOf(published)
	var order []ruleID
	parts := map[ruleID][]*chains.Rule{}
	claims, uncovered := map[*chains.Rule][]chains.Claim{}, map[*chains.Rule]bool{}
	for i, c := range slices.Concat(pre, out) {
		r := c.Rule
		if r.Action != chains.Translate || !source.owns(r) {
			continue
		}
		if i < len(pre) && claims[r] == nil {
			id := ruleID{r.Chain.Table, r.Handle, r.Chain.Name, r.Text}
			if parts[id] == nil {
				order = append(order, id)
			}
			parts[id] = append(parts[id], r)
		}
		claims[r] = append(claims[r], c)
		if i < len(pre) && (len(c.If) != 0 || c.Doubt != "") || !idx.does(c) {
			uncovered[r] = true
		}
	}
	behind, err := unshadowed(rs, claims, uncovered)
	if err != nil {
		return Removed{}, nil, err
	}
	for _, id := range order {
		done.decide(id, parts[id], uncovered, behind, &ops)
	}
	return done, ops, nil
}

// unshadowed returns the rules that would get packets of a rule if that was deleted, and so cannot be: until
// now they come behind it. All that are not uncovered are to be deleted.
func unshadowed(rs *chains.Ruleset, claims map[*chains.Rule][]chains.Claim, uncovered map[*chains.Rule]bool) (map[*chains.Rule]*chains.Rule, error) {
	behind := map[*chains.Rule]*chains.Rule{}
	for {
		gone := func(r *chains.Rule) bool { return claims[r] != nil && !uncovered[r] && behind[r] == nil }
		found := false
		for _, hook := range []chains.Hook{chains.Prerouting, chains.Output} {
			left, err := rs.WalkWithout(hook, gone)
			if err != nil {
				return nil, err
			}
			for r, of := range claims {
				if !gone(r) {
					continue
				}
				for _, c := range of {
					i := slices.IndexFunc(left, func(l chains.Claim) bool { _, meets := l.Box().Intersect(c.Box()); return meets })
					if i >= 0 {
						behind[r], found = left[i].Rule, true
						break
					}
				}
			}
		}
		if !found {
			return behind, nil
		}
	}
}

// decide decides what becomes of one rule of the kernel.
func (d *Removed) decide(id ruleID, parts []*chains.Rule, uncovered map[*chains.Rule]bool, behind map[*chains.Rule]*chains.Rule, ops *[]chains.Deletion) {
	var covered []*chains.Rule
	first := parts[0]
	for _, r := range parts {
		if behind[r] != nil {
			d.Kept = append(d.Kept, LeftOut{r.Origin(), "without it, another rule would get its packets: " + behind[r].Origin()})
		} else if !uncovered[r] {
			covered = append(covered, r)
		}
	}
	switch {
	case len(covered) == 0: // nothing of it was imported
	case id.table.Maker == chains.Legacy || id.handle == 0:
		d.Kept = append(d.Kept, LeftOut{first.Origin(), "it is of iptables-legacy; remove it by: " + first.Command() + " " + strings.Replace(first.Text, "-A ", "-D ", 1)})
	case covered[0].ElementRemovable():
		for _, r := range covered {
			*ops = append(*ops, chains.ElementOf(r))
			d.Rules = append(d.Rules, "element of map "+r.Map+" of "+first.Chain.Table.Name+": "+r.Element()+", looked up by: "+r.Text)
		}
	case len(covered) == first.Siblings:
		*ops = append(*ops, chains.RuleOf(first))
		d.Rules = append(d.Rules, first.Address()+": "+first.Text)
	default:
		d.Kept = append(d.Kept, LeftOut{first.Origin(), "it does more than was imported"})
	}
}

// index finds published mappings by their ports.
type index map[portKey][]*nat.Mapping

func indexOf(ms []nat.Mapping) index {
	idx := index{}
	for i := range ms {
		m := &ms[i]
		for port := int(m.Frontend.Port()); port <= int(m.Frontend.Port())+int(m.More); port++ {
			k := portKey{m.Proto, uint16(port)}
			idx[k] = append(idx[k], m)
		}
	}
	return idx
}

// does reports whether published mappings send all packets of a claim where the claim does.
func (idx index) does(c chains.Claim) bool {
	if packets.Others.Has(c.Class) || c.Links.Only || c.Rule.To.Fault != "" || int(c.Last)-int(c.First) >= allPorts {
		return false
	}
	for port := int(c.First); port <= int(c.Last); port++ {
		to, fault := c.Rule.To.Port(uint16(port))
		if fault != "" || !slices.ContainsFunc(idx[portKey{protoOf(c.Class), uint16(port)}], func(m *nat.Mapping) bool {
			return does(m, c, uint16(port), to)
		}) {
			return false
		}
	}
	return true
}

func does(m *nat.Mapping, c chains.Claim, port, to uint16) bool {
	backend := netip.AddrPortFrom(m.Backend.Addr(), m.Backend.Port()+port-m.Frontend.Port())
	if backend != netip.AddrPortFrom(c.Rule.To.Addr, to) {
		return false
	}
	front := m.Frontend.Addr()
	if front.IsValid() && front.Is6() != c.Class.Is6() {
		return false
	}
	if front.IsValid() && !front.IsUnspecified() {
		if one, ok := c.Dst.One(); !ok || one != front {
			return false
		}
	}
	if m.From.IsZero() {
		return true
	}
	if c.Src.Any() {
		return false
	}
	for _, p := range c.Src.Prefixes(nil) {
		if !slices.ContainsFunc(m.From.Prefixes(), func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }) {
			return false
		}
	}
	return true
}
