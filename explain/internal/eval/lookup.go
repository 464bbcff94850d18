// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"bytes"
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/internal/rules"
)

// maxElements is how many elements a set may have that is read as a whole.
const maxElements = 1024

// lookup asks a set for a key.
func (r *run) lookup(rl *rules.Rule, x rules.Lookup, cur *cursor) {
	set := rl.Chain.Table.Sets[x.Set]
	if set == nil {
		r.lookupFails(rl, x, nil, cur, "set "+x.Set+", which is not there")
		return
	}
	at, ok := span(x.Sreg, int(set.KeyLen))
	if !ok {
		r.lookupFails(rl, x, set, cur, "set "+x.Set+" with an odd key")
		return
	}
	if (!x.Map || x.Dreg != rules.Verdict) && r.breaksLater(rl, cur, x.Dreg, dataLen(x, set)) {
		cur.broken()
		return
	}
	if !cur.regs.all(at, int(set.KeyLen)) {
		r.lookupUnknown(rl, x, set, at, cur)
		return
	}
	key := bytes.Clone(cur.regs.val[at : at+int(set.KeyLen)])
	e, found, err := r.facts.Get(set, key)
	if err != nil {
		r.lookupFails(rl, x, set, cur, "set "+x.Set+", which cannot be read")
		return
	}
	if !found && strings.Contains(cur.state.added, addedKey(set, key)) {
		found, e.Conditional = true, set.Exprs != nil
	}
	var candidates []candidate
	if !found || e.Conditional {
		candidates = append(candidates, candidate{})
	}
	if found {
		candidates = append(candidates, candidate{element: &e})
	}
	r.found(rl, x, cur, candidates, "a condition of an element of set "+set.Name)
}

// dataLen is how many bytes a look-up loads.
func dataLen(x rules.Lookup, set *rules.Set) int {
	if !x.Map {
		return 0
	}
	return int(set.DataLen)
}

// candidate is what a look-up may find: an element, or nothing. Ports are the client's with which
// it does, if they are known.
type candidate struct {
	element *rules.Element
	ports   PortRange
}

// found goes on with what a look-up may find.
func (r *run) found(rl *rules.Rule, x rules.Lookup, cur *cursor, list []candidate, reason string) {
	if len(list) == 1 {
		cur.apply(x, list[0].element)
		if d := cur.pending; d != nil {
			cur.pending = nil
			r.decide(rl, cur, *d)
		}
		return
	}
	for _, c := range list {
		w := r.way(rl, cur, reason)
		if c.ports != (PortRange{}) {
			w.change().ports = c.ports
		}
		w.apply(x, c.element)
	}
}

// apply does what a look-up does with what it finds.
func (c *cursor) apply(x rules.Lookup, e *rules.Element) {
	switch {
	case (e == nil) != x.Not:
		c.broken()
	case !x.Map || e == nil:
	case e.Decision != nil:
		c.pending = e.Decision
	default:
		c.regs.store(x.Dreg, e.Data...)
	}
}

// lookupFails follows both ways of a look-up that cannot be done.
func (r *run) lookupFails(rl *rules.Rule, x rules.Lookup, set *rules.Set, cur *cursor, reason string) {
	if x.Map {
		if x.Dreg == rules.Verdict {
			r.way(rl, cur, reason).broken()
			r.way(rl, cur, reason).end(codeUnclear)
			return
		}
		n := 16
		if set != nil {
			n = int(set.DataLen)
		}
		cur.regs.forget(x.Dreg, n)
		cur.what = reason
	}
	r.fork(rl, cur, reason)
}

// lookupUnknown asks a set for a key of which something is not known: it reads the whole set, if it
// is small.
func (r *run) lookupUnknown(rl *rules.Rule, x rules.Lookup, set *rules.Set, at int, cur *cursor) {
	n := int(set.KeyLen)
	reason := r.unsaid(cur, at, n)
	list, more, err := r.facts.Elements(set, maxElements)
	if err != nil || more || set.Exprs != nil || cur.state.added != "" {
		r.lookupFails(rl, x, set, cur, reason)
		return
	}
	var candidates []candidate
	var rest *rules.Element // for keys that nothing else has
	port := portOnly(cur, at, n)
	left := int(cur.state.ports.Last) - int(cur.state.ports.First) + 1
	for _, e := range intervals(set, list) {
		if e.CatchAll {
			rest = &e.Element
			continue
		}
		ports := PortRange{}
		switch cur.matches(set, at, e) {
		case No:
			continue
		case Yes:
			r.found(rl, x, cur, []candidate{{element: &e.Element}}, reason)
			return
		case Maybe:
		}
		if e.Conditional {
			r.lookupFails(rl, x, set, cur, reason)
			return
		}
		if port {
			ports.First = max(binary.BigEndian.Uint16(e.from), cur.state.ports.First)
			ports.Last = min(binary.BigEndian.Uint16(e.to), cur.state.ports.Last)
			left -= int(ports.Last) - int(ports.First) + 1
		}
		candidates = addCandidate(candidates, candidate{&e.Element, ports}, x.Map)
	}
	if !port || left > 0 {
		candidates = append(candidates, candidate{element: rest})
	}
	if len(candidates) > maxCandidates {
		r.lookupFails(rl, x, set, cur, reason)
		return
	}
	r.found(rl, x, cur, candidates, reason)
}

// maxCandidates is how many results of one look-up are followed.
const maxCandidates = 64

// addCandidate adds a candidate that is unlike the others.
func addCandidate(list []candidate, c candidate, data bool) []candidate {
	for i, o := range list {
		if !data || bytes.Equal(o.element.Data, c.element.Data) && sameDecision(o.element.Decision, c.element.Decision) {
			list[i].ports = PortRange{} // those of both
			return list
		}
	}
	return append(list, c)
}

func sameDecision(a, b *rules.Decision) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// interval is an element with the keys that it has.
type interval struct {
	rules.Element
	from, to []byte
}

// matches says whether an interval has the key at a place of the registers. Each field of a
// concatenation is compared by itself.
func (c *cursor) matches(set *rules.Set, at int, e interval) Answer {
	n := int(set.KeyLen)
	if len(e.from) != n || len(e.to) != n {
		return Maybe
	}
	fields := set.FieldLens
	if len(fields) == 0 {
		fields = []int{n}
	}
	answer, begin := Yes, 0
	for _, f := range fields {
		if f < 0 || begin+f > n {
			return Maybe
		}
		switch c.regs.between(at+begin, e.from[begin:begin+f], e.to[begin:begin+f], c.state) {
		case No:
			return No
		case Yes:
		case Maybe:
			answer = Maybe
		}
		begin += (f + 3) &^ 3
	}
	return answer
}

// intervals returns the elements of a set with the keys that each has. An interval of one field
// ends before the next key in the set.
func intervals(set *rules.Set, list []rules.Element) []interval {
	out := make([]interval, 0, len(list))
	single := set.Flags&unix.NFT_SET_INTERVAL != 0 && len(set.FieldLens) <= 1
	var sorted []rules.Element
	for _, e := range list {
		switch {
		case e.CatchAll:
			out = append(out, interval{Element: e})
		case single && e.End == nil:
			sorted = append(sorted, e)
		case e.End != nil:
			out = append(out, interval{e, e.Key, e.End})
		default:
			out = append(out, interval{e, e.Key, e.Key})
		}
	}
	order.Sort(sorted, func(a, b rules.Element) int { return bytes.Compare(a.Key, b.Key) })
	for i, e := range sorted {
		if e.IntervalEnd {
			continue
		}
		to := bytes.Repeat([]byte{0xff}, len(e.Key))
		for _, next := range sorted[i+1:] {
			if bytes.Compare(next.Key, e.Key) > 0 {
				to = before(next.Key)
				break
			}
		}
		out = append(out, interval{e, e.Key, to})
	}
	return out
}

// before returns the key before one.
func before(key []byte) []byte {
	b := bytes.Clone(key)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]--
		if b[i] != 0xff {
			break
		}
	}
	return b
}

// dynset adds an element to a set, or deletes one.
func (r *run) dynset(rl *rules.Rule, x rules.Dynset, cur *cursor) {
	if x.Op == dynsetDelete {
		return
	}
	limited := false
	for _, e := range x.Exprs {
		switch e.(type) {
		case rules.Counter, rules.Last:
		default:
			limited = true
		}
	}
	set := rl.Chain.Table.Sets[x.Set]
	if set != nil && len(x.Exprs) == 0 {
		limited = len(set.Exprs) > 0
		for _, e := range set.Exprs {
			if _, ok := e.(rules.Counter); ok && len(set.Exprs) == 1 {
				limited = false
			}
		}
	}
	if set != nil && !limited {
		if key, ok := cur.regs.get(x.KeyReg, int(set.KeyLen)); ok {
			if k := addedKey(set, key); !strings.Contains(cur.state.added, k) {
				cur.change().added += k
			}
		}
	}
	switch {
	case limited:
		r.fork(rl, cur, "a limit of set "+x.Set)
	case x.Not:
		cur.broken()
	}
}

// addedKey is how a state notes an element that was added.
func addedKey(set *rules.Set, key []byte) string {
	return "\x00" + set.Table.Name + "\x00" + set.Name + "\x00" + string(key) + "\x00"
}
