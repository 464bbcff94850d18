// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nfttest

import (
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/nft"
)

// table is a table as the kernel keeps it.
type table struct {
	def    nft.Table
	handle uint64
	owner  *Fake // nil: none
	sets   map[string]*set
}

// set is a map or a set.
type set struct {
	def nft.Set
	// elements are by storedKey.
	elements map[nft.Key]element
	// bounds are where prefixes or ranges of ports begin and end, in order.
	bounds []bound
	// order has the pairs, segments and other ranges, the oldest first, as the kernel searches
	// them.
	order []nft.Key
	// next is no later than the first element expires; zero: none does.
	next time.Time
}

func same(a, b nft.Set) bool {
	return sameType(a, b) && a.Timeout == b.Timeout && a.Size == b.Size
}

// sameType reports whether an element of one can be an element of the other.
func sameType(a, b nft.Set) bool {
	return slices.Equal(a.Key, b.Key) && slices.Equal(a.Value, b.Value) && a.Interval == b.Interval
}

// holdsPrefixes reports whether the elements are prefixes, or ranges of ports alone.
func holdsPrefixes(s nft.Set) bool { return s.Interval && len(s.Key) == 1 }

// holdsRanges reports whether the elements are pairs, segments, clients or other ranges.
func holdsRanges(s nft.Set) bool { return s.Interval && len(s.Key) > 1 }

// element is an element with the moment at which it expires; zero: never.
type element struct {
	nft.Element
	end time.Time
}

func newTable(def nft.Table, handle uint64) *table {
	t := &table{def: def, handle: handle, sets: map[string]*set{}}
	for _, d := range def.Sets {
		t.sets[d.Name] = &set{def: d, elements: map[nft.Key]element{}}
	}
	return t
}

// clone copies a table, which its caller may change. Statements cannot change.
func clone(t nft.Table) nft.Table {
	t.Sets = slices.Clone(t.Sets)
	for i := range t.Sets {
		t.Sets[i].Key = slices.Clone(t.Sets[i].Key)
		t.Sets[i].Value = slices.Clone(t.Sets[i].Value)
	}
	t.Chains = slices.Clone(t.Chains)
	for i := range t.Chains {
		t.Chains[i].Rules = slices.Clone(t.Chains[i].Rules)
		for j := range t.Chains[i].Rules {
			t.Chains[i].Rules[j] = slices.Clone(t.Chains[i].Rules[j])
		}
	}
	return t
}

// add adds an element and returns what undoes that, or the kernel's error.
func (s *set) add(e nft.Element, now time.Time) (undo func(), err error) {
	s.expire(now)
	// In the order of nft_add_set_elem (net/netfilter/nf_tables_api.c).
	if e.Timeout != 0 && !s.def.Timeout {
		return nil, unix.EINVAL
	}
	if s.taken(e.Key) {
		return nil, unix.EEXIST
	}
	if s.def.Size != 0 && len(s.elements) >= int(s.def.Size) {
		return nil, unix.ENFILE
	}
	order := s.order
	s.put(e, now)
	return func() {
		s.drop(e.Key)
		s.order = order
	}, nil
}

// taken reports whether the kernel refuses the key because of those it has.
func (s *set) taken(k nft.Key) bool {
	if _, ok := startOf(k); ok {
		return s.takenPrefix(k)
	}
	if _, ok := k.Range(); ok {
		return slices.ContainsFunc(s.order, func(have nft.Key) bool { return touchesPorts(k, have) })
	}
	if r, ok := rangeOf(k); ok {
		return slices.ContainsFunc(s.order, func(have nft.Key) bool { return r.touches(have) })
	}
	if _, _, ok := k.Clients(); ok {
		return s.takenClients(k)
	}
	_, found := s.elements[k]
	return found
}

// keyRange is a pair, or a segment with its link.
type keyRange struct {
	link   string
	prefix netip.Prefix
}

func rangeOf(k nft.Key) (r keyRange, ok bool) {
	if r.link, r.prefix, ok = k.Segment(); !ok {
		r.prefix, ok = k.Pair()
	}
	return r, ok
}

// touches reports whether the first or the last address lies in another range, as
// nft_pipapo_insert in net/netfilter/nft_set_pipapo.c does: one around others passes.
func (r keyRange) touches(k nft.Key) bool {
	have, _ := rangeOf(k)
	return have.link == r.link && (have.prefix.Contains(r.prefix.Addr()) || have.prefix.Contains(last(r.prefix)))
}

// takenClients reports whether one key is within another. Prefixes that overlap are so.
func (s *set) takenClients(k nft.Key) bool {
	at, clients, _ := k.Clients()
	for have := range s.elements {
		other, p, _ := have.Clients()
		front := at.Addr() == other.Addr() || at.Addr().IsUnspecified() || other.Addr().IsUnspecified()
		if front && at.Port() <= have.LastPort() && other.Port() <= k.LastPort() && clients.Overlaps(p) {
			return true
		}
	}
	return false
}

// last is the highest address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < 8*len(b); bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// put stores an element without checks.
func (s *set) put(e nft.Element, now time.Time) {
	stored := element{Element: e}
	stored.Timeout = milliseconds(e.Timeout)
	if e.Timeout != 0 && s.def.Timeout {
		life := stored.Timeout
		if e.Expires != 0 {
			life = milliseconds(e.Expires)
		}
		stored.end = now.Add(life)
	}
	stored.Expires = 0
	s.store(stored)
}

func (s *set) store(e element) {
	at := storedKey(e.Key)
	if _, ok := s.elements[at]; !ok && holdsRanges(s.def) {
		s.order = append(s.order, e.Key)
	}
	s.elements[at] = e
	for _, b := range bounds(e.Key) {
		s.addBound(b)
	}
	if !e.end.IsZero() {
		s.endsBy(e.end)
	}
}

// drop removes an element without checks.
func (s *set) drop(k nft.Key) {
	delete(s.elements, storedKey(k))
	for _, b := range bounds(k) {
		s.dropBound(b)
	}
}

// milliseconds rounds up, as package nft does, but for the very longest.
func milliseconds(d time.Duration) time.Duration {
	ms := d.Truncate(time.Millisecond)
	if ms < d && ms <= math.MaxInt64-time.Millisecond {
		ms += time.Millisecond
	}
	return ms
}

// remove removes an element and returns what undoes that, or the kernel's error. Of pairs,
// segments and other ranges it removes the oldest that contains the first address and port of the
// key, as nft_pipapo_deactivate does.
func (s *set) remove(gone nft.Element, now time.Time) (undo func(), err error) {
	k := gone.Key
	s.expire(now)
	order := s.order
	if holdsRanges(s.def) {
		touches := func(have nft.Key) bool { return have == k }
		if r, ok := rangeOf(k); ok {
			r.prefix = netip.PrefixFrom(r.prefix.Addr(), r.prefix.Addr().BitLen())
			touches = r.touches
		} else if _, ok := k.Range(); ok {
			touches = func(have nft.Key) bool { return hasFirst(have, k) }
		}
		i := slices.IndexFunc(s.order, touches)
		if i < 0 {
			return nil, unix.ENOENT
		}
		k = s.order[i]
		// An undo may need the old slice.
		s.order = slices.Delete(slices.Clone(s.order), i, i+1)
	}
	e, ok := s.elements[storedKey(k)]
	if !ok || s.endsAlone(k) {
		return nil, unix.ENOENT
	}
	s.drop(k)
	return func() {
		s.store(e)
		s.order = order
	}, nil
}

// endsBy makes expire look again at that moment.
func (s *set) endsBy(end time.Time) {
	if s.next.IsZero() || end.Before(s.next) {
		s.next = end
	}
}

// expire removes expired elements.
func (s *set) expire(now time.Time) {
	if s.next.IsZero() || now.Before(s.next) {
		return
	}
	s.next = time.Time{}
	for _, e := range s.elements {
		switch {
		case e.end.IsZero():
		case !now.Before(e.end):
			s.drop(e.Key)
		default:
			s.endsBy(e.end)
		}
	}
	s.order = slices.DeleteFunc(slices.Clone(s.order), func(k nft.Key) bool {
		_, ok := s.elements[k]
		return !ok
	})
}

// list appends the elements, in no order, with what is left of their time-outs.
func (s *set) list(es []nft.Element, now time.Time) []nft.Element {
	s.expire(now)
	from := len(es)
	for _, e := range s.elements {
		listed := e.Element
		if !e.end.IsZero() {
			listed.Expires = e.end.Sub(now)
		}
		es = append(es, listed)
	}
	if holdsPrefixes(s.def) {
		return append(es[:from], s.whole(es[from:])...)
	}
	return es
}

// sorted lists all elements by their set and key.
func (t *table) sorted(now time.Time) []nft.Element {
	var es []nft.Element
	for _, s := range t.def.Sets {
		from := len(es)
		es = t.sets[s.Name].list(es, now)
		slices.SortFunc(es[from:], func(a, b nft.Element) int { return a.Key.Compare(b.Key) })
	}
	return es
}

// Dump returns everything that the kernel holds, as text that nft(8) can load: the
// tables by name, each followed by its elements in the order of their sets, then by
// key. How much of a time-out is left is not part of it, as with "nft -s".
func (k *Kernel) Dump() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var b strings.Builder
	names := make([]string, 0, len(k.tables))
	for name := range k.tables {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		t := k.tables[name]
		def := t.def
		def.Flags = t.flags()
		b.WriteString(def.String())
		for _, e := range t.sorted(k.now()) {
			b.WriteString("add element inet " + name + " " + e.String() + "\n")
		}
	}
	return b.String()
}
