// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/nat"
)

// plan is what Step has to do, at one revision.
type plan struct {
	revision int64
	mappings []exchange
	networks []netChange
}

// exchange is what one item changes.
type exchange struct {
	thing
	item   *keys.Item // nil: there is none any more
	at     int64
	want   []nat.Mapping
	change nat.Exchange
}

// plan takes what is to be done. While a change of several transactions is under way, that is what was
// desired before it; ok is false if that is not known.
func (r *Reconciler) plan() (p plan, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.items.half {
		return p, false
	}
	if p.revision = r.revision; r.items.open() {
		p.revision = r.applied
	}
	now := time.Now()
	dirty := slices.Collect(maps.Keys(r.dirty))
	slices.SortFunc(dirty, func(a, b thing) int { return strings.Compare(a.name, b.name) })
	clear(r.dirty)
	for _, t := range dirty {
		delete(r.refused, t)
		it := r.items.of(t)
		if it != nil && it.err != nil { // it stays as it was
			r.refused[t] = keys.Fault{Key: it.Key(), Revision: it.revision, Reason: it.err.Error()}
			continue
		}
		switch t.kind {
		case keys.KindMapping:
			x := exchange{thing: t}
			if it != nil {
				x.item, x.at, x.want = &it.Item, it.revision, r.wanted(it.mappings, now)
			}
			if x.change = difference(r.have[t.name], x.want); len(x.change.Remove)+len(x.change.Publish) != 0 {
				p.mappings = append(p.mappings, x)
			} else if len(x.want) != 0 {
				r.have[t.name] = x.want // one copy of both
			}
		case keys.KindFloat: // of package float
		case keys.KindNetwork:
			if n, differs := r.netChange(t, it); differs {
				p.networks = append(p.networks, n)
			}
		}
	}
	return p, true
}

// wanted are the mappings that have not expired and whose addresses are here.
func (r *Reconciler) wanted(ms []nat.Mapping, now time.Time) []nat.Mapping {
	unwanted := func(m nat.Mapping) bool {
		return !m.Expires.IsZero() && !m.Expires.After(now) || m.Frontend.Addr().IsValid() && r.elsewhere(m.Frontend.Addr())
	}
	if !slices.ContainsFunc(ms, unwanted) {
		return ms
	}
	return slices.DeleteFunc(slices.Clone(ms), unwanted)
}

// difference is what makes the mappings of a name those that are wanted.
func difference(have, want []nat.Mapping) (x nat.Exchange) {
	same := func(a, b nat.Mapping) bool {
		apart := a.Expires.Sub(b.Expires)
		if a.Expires.IsZero() == b.Expires.IsZero() && apart.Abs() < time.Second {
			a.Expires = b.Expires
		}
		return a == b
	}
	for _, m := range have {
		if !slices.ContainsFunc(want, func(w nat.Mapping) bool { return same(m, w) }) {
			x.Remove = append(x.Remove, m)
		}
	}
	for _, m := range want {
		if !slices.ContainsFunc(have, func(h nat.Mapping) bool { return same(h, m) }) {
			x.Publish = append(x.Publish, m)
		}
	}
	return x
}
