// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package chains

import (
	"cmp"
	"errors"
	"slices"

	"github.com/nftnat/nftnat/migrate/internal/packets"
)

// Bounds of a walk.
const (
	maxDepth    = 16 // of jumps, as in the kernel (NFT_JUMP_STACK_SIZE)
	maxVisits   = 1 << 13
	maxSegments = 1 << 18
)

// ErrTooMany means that rules are too many, or too tangled, to be followed.
var ErrTooMany = errors.New("too many rules to follow")

// Claim is packets that a rule translates.
type Claim struct {
	Rule *Rule
	// Base is the base chain from which the rule is reached.
	Base *Chain
	packets.Piece
	// Rank is that of the base chain's priority: claims of the same rank are of base chains of
	// which it is not known which one is asked first.
	Rank int
}

// Walk returns what the rules of nat at a hook do to packets, each in the order in which it is
// asked: claims to translate, redirect or hide them.
func (rs *Ruleset) Walk(hook Hook) ([]Claim, error) { return rs.WalkWithout(hook, nil) }

// WalkWithout is Walk as if some rules were not there.
func (rs *Ruleset) WalkWithout(hook Hook, gone func(*Rule) bool) ([]Claim, error) {
	var bases []*Chain
	for _, t := range rs.Tables {
		for _, c := range t.Chains {
			if c.Hook == hook {
				bases = append(bases, c)
			}
		}
	}
	// Of the same priority the one that was added last is asked first (nf_hook_entries_grow in
	// net/netfilter/core.c).
	slices.SortStableFunc(bases, func(a, b *Chain) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(b.Table.age, a.Table.age), cmp.Compare(b.age, a.age))
	})
	w := walk{gone: gone}
	region := packets.NewRegion(packets.All)
	for from := 0; from < len(bases); {
		to := from + 1
		for to < len(bases) && bases[to].Priority == bases[from].Priority {
			to++
		}
		before, taken := region.Clone(), len(w.claims)
		marks := make([][]packets.Piece, 0, to-from)
		for _, base := range bases[from:to] {
			// Each is asked as if it were the first.
			w.base, w.dropped, w.marked = base, nil, nil
			sees := before.Clone()
			var unseen packets.Region
			unseen.Add(sees.TakeOut(packets.Of(packets.All &^ base.Table.classes()))...)
			if err := w.chain(base, sees, 0); err != nil {
				return nil, err
			}
			for _, p := range w.dropped {
				if len(p.If) == 0 && p.Doubt == "" {
					region.TakeOut(p.Box())
					continue
				}
				doubt(region, p.Box(), "a rule of "+base.Table.Name+" that drops packets")
			}
			mark(region, w.marked)
			marks = append(marks, w.marked)
			if base.Drops {
				for _, p := range sees.Pieces() {
					region.TakeOut(p.Box())
				}
			}
		}
		if len(marks) > 1 {
			w.claims = append(w.claims[:taken], markByOthers(w.claims[taken:], bases[from:to], marks)...)
		}
		for _, c := range w.claims[taken:] {
			if len(c.If) == 0 && c.Doubt == "" {
				region.TakeOut(c.Box())
				continue
			}
			doubt(region, c.Box(), c.Rule.Origin())
		}
		w.rank++
		from = to
	}
	return w.claims, nil
}

type walk struct {
	base    *Chain
	gone    func(*Rule) bool // nil: none is
	claims  []Claim
	dropped []packets.Piece
	marked  []packets.Piece
	visits  int
	rank    int
}

// doubt notes that a rule may have taken packets of a region before.
func doubt(r *packets.Region, b packets.Box, rule string) {
	r.Add(inDoubt(r.TakeOut(b), rule)...)
}

// mark notes in a region what has marked pieces of it.
func mark(r *packets.Region, pieces []packets.Piece) {
	if r.IsEmpty() {
		return
	}
	for _, p := range pieces {
		r.Add(marked(r.TakeOut(p.Box()), p.Mark)...)
	}
}

// markByOthers notes in claims of base chains, of which it is not known which one is asked first, what the others mark.
func markByOthers(claims []Claim, bases []*Chain, marks [][]packets.Piece) (list []Claim) {
	for _, c := range claims {
		var r packets.Region
		r.Add(c.Piece)
		for i, base := range bases {
			if base != c.Base {
				mark(&r, marks[i])
			}
		}
		for _, p := range r.Pieces() {
			list = append(list, Claim{c.Rule, c.Base, p, c.Rank})
		}
	}
	return list
}

// chain takes the packets out of a region that do not come out of a chain again.
func (w *walk) chain(c *Chain, region *packets.Region, depth int) error {
	if w.visits++; depth > maxDepth || w.visits > maxVisits {
		return ErrTooMany
	}
	var returned []packets.Piece
	for _, r := range c.Rules {
		if region.IsEmpty() {
			break
		}
		if region.Len() > maxSegments {
			return ErrTooMany
		}
		out, err := w.rule(c, r, region, depth)
		if err != nil {
			return err
		}
		returned = append(returned, out...)
	}
	region.Add(returned...)
	return nil
}

// rule does to a region what a rule does, and returns the packets that leave the chain and
// stay in the one that called it.
func (w *walk) rule(c *Chain, r *Rule, region *packets.Region, depth int) (returned []packets.Piece, err error) {
	if r.Action == Continue || w.gone != nil && w.gone(r) {
		return nil, nil
	}
	var hit []packets.Piece
	for _, b := range r.Match {
		hit = append(hit, region.TakeOut(b)...)
	}
	if len(hit) == 0 {
		return nil, nil
	}
	if len(r.If) == 0 {
		return w.act(c, r, hit, region, depth)
	}
	// Some of the packets meet the conditions, and nobody knows which: all go on, in doubt.
	some := slices.Clone(hit)
	for i := range some {
		some[i].If = append(slices.Clone(some[i].If), r.If...)
	}
	region.Add(hit...)
	before := len(w.marked)
	var rest packets.Region
	// Those that leave the chain do so only if the conditions hold.
	if _, err := w.act(c, r, some, &rest, depth); err != nil {
		return nil, err
	}
	var taken packets.Region
	taken.Add(hit...)
	for _, p := range rest.Pieces() {
		if p.Doubt == "" {
			taken.TakeOut(p.Box())
		}
	}
	for _, p := range taken.Pieces() {
		doubt(region, p.Box(), r.Origin())
	}
	mark(region, w.marked[before:])
	return nil, nil
}

// act does what a rule does to packets that it matches. What goes on in the chain is added to
// a region.
func (w *walk) act(c *Chain, r *Rule, hit []packets.Piece, region *packets.Region, depth int) (returned []packets.Piece, err error) {
	switch r.Action {
	case Continue:
		region.Add(hit...)
	case Accept:
	case Drop:
		w.dropped = append(w.dropped, hit...)
	case Return:
		return hit, nil
	case Jump, Goto:
		to := c.Table.Chain(r.Target)
		if to == nil {
			region.Add(inDoubt(hit, r.Origin())...)
			return nil, nil
		}
		var inner packets.Region
		inner.Add(hit...)
		if err := w.chain(to, &inner, depth+1); err != nil {
			return nil, err
		}
		if r.Action == Goto {
			return inner.Empty(), nil
		}
		region.Add(inner.Empty()...)
	case Translate, Redirect, Hide:
		for _, p := range hit {
			w.claims = append(w.claims, Claim{r, w.base, p, w.rank})
		}
	case Mark:
		hit = marked(hit, r.Origin())
		w.marked = append(w.marked, hit...)
		region.Add(hit...)
	case Unknown:
		region.Add(inDoubt(hit, r.Origin())...)
	}
	return nil, nil
}

func inDoubt(pieces []packets.Piece, rule string) []packets.Piece {
	for i := range pieces {
		if pieces[i].Doubt == "" {
			pieces[i].Doubt = rule
		}
	}
	return pieces
}

func marked(pieces []packets.Piece, rule string) []packets.Piece {
	for i := range pieces {
		if pieces[i].Mark == "" {
			pieces[i].Mark = rule
		}
	}
	return pieces
}
