// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// Flows go on to a backend after its port has gone from the table, until they are deleted.
// So that a process that is killed in between does not leave them, the transaction that
// removes a port over UDP adds a note of it to one of the maps of ended ports. A port that
// the kernel removes when its time is over has its note for as long as it is published, over
// TCP as well, for connections that nobody has answered. The note is removed once the flows
// are deleted. An engine that finds notes on ports that are not published deletes the flows.

// endedMap returns the name of the map of notes for the family of a backend.
func endedMap(proto nat.Proto, backend netip.Addr) string {
	return proto.String() + familyDigit(backend) + endedSuffix
}

const endedSuffix = "_ended"

// isNote reports whether a map has notes.
func isNote(set string) bool {
	return strings.HasSuffix(strings.TrimSuffix(set, rangeSuffix), endedSuffix)
}

// hasNote reports whether a published port has a note.
func hasNote(p portset.Port) bool { return p.Expires != 0 && !p.ProxiedOnly() }

// Notes returns the notes on published ports. Those of a range are of all of it, also of ports that
// were taken out: it is for entries of a set rather than for what they serve.
func Notes(published iter.Seq[portset.Port]) (es []nft.Element) {
	for p := range published {
		if hasNote(p) {
			es = append(es, note(p))
		}
	}
	return es
}

// entryPorts yields the ports of the entries of a set.
func entryPorts(s *portset.Set) iter.Seq[portset.Port] {
	return func(yield func(portset.Port) bool) {
		for e := range s.Entries {
			if e.Kind != portset.EntryHole && !yield(e.Port) {
				return
			}
		}
	}
}

// NoteChange is what a change of the published ports does to notes.
type NoteChange struct {
	Gone, Come []nft.Element // in the transaction of the change
	Ended      []nft.Element // to be removed once the flows are deleted
	// Again are expired ports whose notes make room for others. Their flows end with the
	// change.
	Again []portset.Port
}

// NotesOf returns what a change does to notes. expired are ports that are not published any
// more and have notes.
func NotesOf(c *portset.Change, expired []portset.Port) (n NoteChange) {
	n.Come = Notes(func(yield func(portset.Port) bool) {
		for _, p := range c.Added {
			if !yield(p) {
				return
			}
		}
	})
	for _, m := range c.Moved {
		was, is := hasNote(m.Before()), hasNote(m.After())
		if !was && !is || was && is && note(m.Before()) == note(m.After()) {
			continue
		}
		if was {
			n.Gone = append(n.Gone, note(m.Before()))
		}
		if is {
			n.Come = append(n.Come, note(m.After()))
		}
	}
	come := make(map[nft.ElementKey]nft.Element, len(n.Come))
	for _, e := range n.Come {
		come[e.ElementKey()] = e
	}
	for _, p := range c.Removed {
		if !hasNote(p) && (p.Proto != nat.UDP || p.ProxiedOnly()) {
			continue
		}
		// Another frontend can have the key: any address, and any of a family.
		e := note(p)
		switch _, taken := come[e.ElementKey()]; {
		case taken && hasNote(p):
			n.Gone = append(n.Gone, e)
		case taken:
		default:
			n.Ended = append(n.Ended, e)
			if !hasNote(p) {
				n.Come = append(n.Come, e)
			}
		}
	}
	if len(expired) == 0 {
		return n
	}
	for _, e := range n.Come {
		come[e.ElementKey()] = e
	}
	for _, p := range expired {
		e := note(p)
		if _, taken := come[e.ElementKey()]; taken {
			n.Gone, n.Again = append(n.Gone, e), append(n.Again, p)
		}
	}
	return n
}

// StaleNotes returns the notes on ports and whole ranges that have ended, except those whose
// place what is published has taken.
func StaleNotes(ended []portset.Port, published *portset.Set) []nft.Element {
	return withoutKeys(EndedElements(ended), Notes(func(yield func(portset.Port) bool) {
		for _, p := range ended {
			if now, ok := published.Beginning(p); ok && !yield(now) {
				return
			}
		}
	}))
}

// AllNotes returns the notes on published ports, and those on expired ones whose place no
// others have taken.
func AllNotes(published iter.Seq[portset.Port], expired []portset.Port) []nft.Element {
	es := Notes(published)
	return append(es, withoutKeys(EndedElements(expired), es)...)
}

// withoutKeys returns the elements whose keys others have not.
func withoutKeys(es, others []nft.Element) []nft.Element {
	if len(es) == 0 || len(others) == 0 {
		return es
	}
	taken := make(map[nft.ElementKey]struct{}, len(others))
	for _, e := range others {
		taken[e.ElementKey()] = struct{}{}
	}
	return slices.DeleteFunc(es, func(e nft.Element) bool { _, is := taken[e.ElementKey()]; return is })
}

// EndedElements returns the notes on ports that are not published any more.
func EndedElements(ended []portset.Port) []nft.Element {
	es := make([]nft.Element, len(ended))
	for i, p := range ended {
		es[i] = note(p)
	}
	return es
}

// note returns the note on a port, or on a range: then the port of the value is the last. Flows
// to any address are of its backend's family, so that 0.0.0.0 and :: can stand for any in the key.
func note(p portset.Port) nft.Element {
	key := p.AddrPort
	if !p.Host().IsValid() {
		key = p.OfFamily(p.Backend.Addr()).AddrPort
	}
	e := nft.Element{Set: endedMap(p.Proto, p.Backend.Addr()), Key: nft.AddrPortKey(key), Value: p.Backend,
		Comment: nat.CommentText(p.Name, nat.CommentAttributes{})}
	if p.More != 0 {
		e.Set += rangeSuffix
		e.Value = netip.AddrPortFrom(p.Backend.Addr(), p.Last())
	}
	return e
}

// readEnded decodes a note. ok is false if no engine can have made it.
func readEnded(e nft.Element) (p portset.Port, ok bool) {
	name, _ := nat.ParseComment(e.Comment)
	p = portset.Port{
		Frontend: portset.Frontend{Proto: nat.TCP, AddrPort: e.Key.AddrPort()},
		Target:   portset.Target{Backend: e.Value, Name: name},
	}
	if strings.HasSuffix(e.Set, rangeSuffix) {
		first := p.AddrPort.Port()
		if e.Value.Port() <= first {
			return p, false
		}
		p.More, p.Backend = e.Value.Port()-first, netip.AddrPortFrom(e.Value.Addr(), first)
	}
	if strings.HasPrefix(e.Set, nat.UDP.String()) {
		p.Proto = nat.UDP
	}
	return p, p.AddrPort.Port() != 0 && p.Mapping().Validate() == nil && !p.ProxiedOnly()
}

// readNotes decodes notes: those on published ports, and those on others, which are ended.
func (c *Contents) readNotes(elements []nft.Element) {
	published := map[nft.Element]bool{}
	if c.timed {
		for _, e := range Notes(entryPorts(&c.Ports)) {
			published[e] = false
		}
	}
	for _, e := range c.Ports.Settling(c.Next) {
		if hasNote(e.Port) {
			published[note(e.Port)] = false
		}
	}
	for _, el := range elements {
		p, ok := readEnded(el)
		if !c.keep(el, ok) {
			continue
		}
		if _, is := published[el]; is {
			published[el] = true
		} else {
			c.Ended = append(c.Ended, p)
		}
	}
	for e, noted := range published {
		if !noted {
			c.Unnoted = append(c.Unnoted, e)
		}
	}
}
