// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

func isExist(err error) bool { return errors.Is(err, fs.ErrExist) }

// adoptAttempts bounds how often the table is read anew because somebody keeps
// changing it; each attempt waits by pause longer than the one before.
const (
	adoptAttempts = 5
	pause         = time.Millisecond
)

// adopt takes over what the kernel holds: the table is the only record of what is
// published. It is how an engine starts, and how it finds its way when the kernel
// turns out to hold something else than it did.
func (e *Engine) adopt() error {
	e.opts.Trace("adopt")
	defer e.opts.Progress(Progress{})
	var err error
	for attempt := range adoptAttempts {
		time.Sleep(time.Duration(attempt) * pause)
		if err = e.reconnect(); err != nil {
			continue
		}
		if err = e.adoptOnce(); !errors.Is(err, nft.ErrStale) && !e.socketFailed(err) {
			return err
		}
	}
	return fmt.Errorf("read table %s: %w", e.opts.Table, err)
}

// adoptOnce is one attempt. The error is nft.ErrStale if the table changed between
// one look at it and the next.
func (e *Engine) adoptOnce() error {
	info, err := e.kernel.Table(e.opts.Table)
	if !e.present {
		e.found = info.Handle
	}
	if isNotExist(err) {
		if e.present && !e.opts.ReadOnly {
			return e.remake(0, damage{lines: []string{"it was deleted by somebody else"}, whole: true})
		}
		return nil
	}
	if err != nil {
		return err
	}
	if err := checkSchema(e.opts.Table, info.Comment); err != nil {
		return err
	}
	if info, err = e.own(info); err != nil {
		return err
	}
	// What flags it has is seen to apart from what it holds.
	want := e.table
	want.Flags = info.Flags &^ nft.TableDormant
	drift, err := e.kernel.Drift(want)
	if err != nil {
		return staleIfGone(err)
	}
	d := e.damageOf(drift, info)
	if e.known() && len(d.lines) != 0 {
		return e.remake(info.Handle, d)
	}
	elements, generation, err := e.readElements()
	if err != nil {
		return err
	}
	if d.lines = append(d.lines, e.missingRecords(elements)...); e.known() && len(d.lines) != 0 {
		return e.remake(info.Handle, d)
	}
	book, strange := readBook(elements)
	elements, others := e.sortOut(elements, book, strange)
	strange = append(strange, others...)
	for _, el := range strange {
		d.add("an engine makes no such element: %s", el)
	}
	missing := book.missing(elements)
	for _, el := range missing {
		d.add("an element is missing: %s", el)
	}
	elements = append(elements, missing...)
	if len(d.lines) != 0 || d.whole && !e.opts.ReadOnly {
		ch := nft.Change{Delete: strange, Add: missing, Generation: generation}
		if err := e.putRight(d, elements, ch, info.Handle); err != nil {
			return err
		}
	} else {
		e.handle = info.Handle
	}
	notes := slices.DeleteFunc(slices.Clone(behindMappings(elements)), func(el nft.Element) bool { return !isEnded(el) })
	if e.present {
		e.follow(elements, book, len(notes))
	} else {
		e.present = true
		e.take(elements, book)
		e.adoptHairpins()
	}
	if e.opts.ReadOnly {
		return nil
	}
	return e.endFlows(notes)
}

// sortOut parts the elements that an engine can have made from those that others must
// have written. Those cannot stay: nobody would see them, and yet they would be in the
// way of mappings. Of the records the book has said already which are strange.
func (e *Engine) sortOut(elements []nft.Element, b book, strangeRecords []nft.Element) (ours, strange []nft.Element) {
	kinds, now, nested := mapKinds(), e.now(), nestedSegments(elements, b)
	twice := outdone(elements, kinds, now)
	bad := make(map[nft.Element]struct{}, len(strangeRecords))
	for _, el := range strangeRecords {
		bad[el] = struct{}{}
	}
	others := behindMappings(elements)
	ours = elements[:0]
	var kind kindOf
	for i := range elements[:len(elements)-len(others)] {
		el := &elements[i]
		p, ok := published(*el, kind.of(el.Set, kinds), now)
		if _, lost := twice[p.frontend]; lost && kind.apart {
			ok = false
		}
		switch {
		case !ok || el.Strange != "":
			strange = append(strange, *el)
		case len(ours) == i: // it stays where it is
			ours = elements[:i+1]
		default:
			ours = append(ours, *el)
		}
	}
	for _, el := range others {
		if _, ok := recordOf(el); ok {
			if _, no := bad[el]; !no {
				ours = append(ours, el)
			}
			continue
		}
		segment, ok := el.Key.Segment()
		if _, inner := nested[segment]; inner {
			ok = false
		}
		if kind, isMap := kinds[el.Set]; isMap {
			var p port
			p, ok = published(el, kind, now)
			if _, lost := twice[p.frontend]; lost && kind.apart {
				ok = false
			}
		} else if isEnded(el) {
			_, ok = endedPort(el)
		}
		if isHairpinSet(el.Set) {
			_, _, ok = hairpinRecord(el)
		}
		if ok && el.Strange == "" {
			ours = append(ours, el)
		} else {
			strange = append(strange, el)
		}
	}
	return ours, strange
}

// nestedSegments are the segments that lie within others, or around a network that is
// one of its own. An engine never makes such.
func nestedSegments(elements []nft.Element, b book) map[netip.Prefix]struct{} {
	var all []netip.Prefix
	outer, nested := map[netip.Prefix]int{}, map[netip.Prefix]struct{}{}
	for _, n := range b.networks {
		outer[n.Prefix] = 0
	}
	for _, el := range behindMappings(elements) {
		segment, ok := el.Key.Segment()
		if _, own := outer[segment]; !ok || own {
			continue
		}
		all = append(all, segment)
	}
	for _, n := range b.networks {
		for _, p := range all {
			if within(n.Prefix, p) {
				nested[p] = struct{}{}
			}
		}
	}
	// The widest first: it is the others that lie within.
	slices.SortFunc(all, func(p, q netip.Prefix) int { return p.Bits() - q.Bits() })
	for _, p := range all {
		if _, around := nested[p]; around || covered(outer, p) {
			nested[p] = struct{}{}
		} else {
			outer[p] = 0
		}
	}
	return nested
}

// outdone are the frontends that have an element in a map that no rule looks up and
// another, which packets follow, in one that rules do. An engine never makes such.
func outdone(elements []nft.Element, kinds map[string]mapKind, now time.Time) map[frontend]struct{} {
	apart, twice := map[frontend]struct{}{}, map[frontend]struct{}{}
	var kind kindOf
	for i := range elements {
		el := &elements[i]
		if kind.of(el.Set, kinds).apart {
			p, _ := published(*el, kind.mapKind, now)
			apart[p.frontend] = struct{}{}
		}
	}
	if len(apart) == 0 {
		return nil
	}
	note := func(f frontend) {
		if _, ok := apart[f]; ok {
			twice[f] = struct{}{}
		}
	}
	followed := newRegistry()
	for _, el := range elements {
		kind, isMap := kinds[el.Set]
		p, ok := published(el, kind, now)
		if !isMap || !ok || kind.apart {
			continue
		}
		if have, both := followed.get(p.frontend); both { // see take
			note(p.ofFamily(have.backend.Addr()))
			p.frontend = p.ofFamily(p.backend.Addr())
		}
		note(p.frontend)
		followed.put(p)
	}
	return twice
}

// staleIfGone makes of the error that the table is not there, which it was a moment
// ago, the one that it has changed.
func staleIfGone(err error) error {
	if isNotExist(err) {
		return fmt.Errorf("%w: %w", nft.ErrStale, err)
	}
	return err
}

// putRight puts a table right that is not as it should be, unless it is only read. The
// change makes its elements those that are given, which are all that are to be in it.
func (e *Engine) putRight(d damage, elements []nft.Element, ch nft.Change, handle uint64) error {
	e.warnOf(d)
	if e.opts.ReadOnly {
		return nil
	}
	left := len(ch.Add) // those are the last
	for i := range elements[:len(elements)-left] {
		// Others may have written what nft(8) could not load. Of the records, what an
		// engine does not write is strange.
		was := elements[i]
		if _, ok := recordOf(was); ok || isHairpinSet(was.Set) {
			continue
		}
		elements[i].Comment = nat.CommentText(nat.ParseComment(was.Comment))
		if elements[i].Comment != was.Comment {
			ch.Delete, ch.Add = append(ch.Delete, was), append(ch.Add, elements[i])
		}
	}
	e.opts.Trace("repair")
	mended := e.mend(d, handle, func() (nft.Change, error) { return ch, apartFrom(ch.Delete, elements) })
	if !mended {
		// What ends at this moment would begin anew.
		elements = slices.DeleteFunc(elements, func(el nft.Element) bool { return el.Timeout != 0 && el.Expires == 0 })
		e.keepThrough()
		// The guards may be among what is missing: all of it or nothing.
		if err := e.kernel.Replace(e.table, elements, ch.Generation); err != nil {
			return err
		}
		e.readHandle()
	}
	if len(d.lines) == 0 {
		e.log.Info("table was recreated to change its owner", "table", e.opts.Table, "owned", e.table.Flags != 0)
		return nil
	}
	e.noteRepair()
	return nil
}

// readElements reads all elements that the engine knows how to keep. A set that is
// missing from a damaged table has none.
func (e *Engine) readElements() ([]nft.Element, uint32, error) {
	names := make([]string, 0, len(e.table.Maps)+len(e.table.Sets))
	for _, m := range e.table.Maps {
		names = append(names, m.Name)
	}
	for _, s := range e.table.Sets {
		names = append(names, s.Name)
	}
	all, generation, err := e.kernel.Elements(e.table, names...)
	if isNotExist(err) {
		return e.readWhatIsThere(names)
	}
	return all, generation, err
}

// readWhatIsThere reads one set after the other, of those that are there, as long as
// nothing changes meanwhile.
func (e *Engine) readWhatIsThere(names []string) (all []nft.Element, generation uint32, err error) {
	if generation, err = e.kernel.Generation(); err != nil {
		return nil, 0, err
	}
	for _, name := range names {
		some, _, err := e.kernel.Elements(e.table, name)
		if err != nil && !isNotExist(err) {
			return nil, 0, err
		}
		all = append(all, some...)
	}
	// The sets may be missing because by now the table is.
	if _, err := e.kernel.Table(e.opts.Table); err != nil {
		return nil, 0, staleIfGone(err)
	}
	now, err := e.kernel.Generation()
	if err == nil && now != generation {
		err = nft.ErrStale
	}
	return all, generation, err
}

// take makes the elements what the engine knows to be published.
func (e *Engine) take(elements []nft.Element, b book) {
	for p := range e.mappings.all {
		if _, ok := e.crowded[p.frontend]; !ok {
			e.ports[p.proto].Release(reservation(p.ap))
		}
	}
	e.mappings = newRegistry()
	e.segments = map[netip.Prefix]int{}
	e.backends = map[netip.Addr]int{}
	e.hairpins.records = map[netip.Addr]string{}
	e.crowded = map[frontend]struct{}{}
	e.expiries = nil
	e.open(b)
	for _, el := range behindMappings(elements) {
		if segment, ok := el.Key.Segment(); ok {
			e.segments[segment] = 0
		}
		if backend, port, ok := hairpinRecord(el); ok {
			e.hairpins.records[backend] = port
		}
	}
	for _, n := range e.networks {
		e.segments[n.Prefix] = 1 // it stays when nothing is published on it
	}
	kinds, now := mapKinds(), e.now()
	var kind kindOf
	for i := range elements {
		el := &elements[i]
		if kind.of(el.Set, kinds); !kind.ok {
			continue
		}
		p := portIn(el, kind.mapKind, now)
		if have, twice := e.mappings.get(p.frontend); twice {
			// Somebody has written the same port into the maps of both families:
			// neither can then be for any address of both.
			other := port{p.frontend, have}
			e.mappings.delete(other.frontend)
			other.frontend = p.ofFamily(have.backend.Addr())
			e.mappings.put(other)
			e.expect(other)
			p.frontend = p.ofFamily(p.backend.Addr())
		}
		e.mappings.put(p)
		e.expect(p)
	}
	led := tallyOf(e.mappings.all)
	maps.Copy(e.backends, led)
	countOn(e.segments, led, 1)
	e.reserveFound()
	e.syncProxies()
}

// insideSet is the name of the set of segments of a family.
func insideSet(is4 bool) string {
	if is4 {
		return "inside4"
	}
	return "inside6"
}
