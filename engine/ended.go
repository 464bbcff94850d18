// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"
	"strings"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// What is unpublished leaves the table, and flows over UDP go on to its backend until
// they are ended. So that a process which is killed in between does not leave them, the
// transaction that takes a mapping away notes what it was in one of the maps of what has
// ended, and the note goes when the flows have gone. An engine that finds notes does
// what they ask for.

const endedSuffix = "_ended"

// endedName is the name of the map of notes, by the family of the backend.
func endedName(backend netip.Addr) string {
	return nat.UDP.String() + familyDigit(backend) + endedSuffix
}

func isEnded(e nft.Element) bool { return strings.HasSuffix(e.Set, endedSuffix) }

// endedNotes returns the notes on ports that a change removes.
func endedNotes(removed []portset.Port) (es []nft.Element) {
	for _, p := range removed {
		if p.Proto == nat.UDP && !p.ProxiedOnly() {
			es = append(es, noteOf(p))
		}
	}
	return es
}

// noteOf is the note on a port that has ended. Flows to any address are of its
// backend's family, so that 0.0.0.0 and :: can stand for any in the key.
func noteOf(p portset.Port) nft.Element {
	key := p.AddrPort
	if !p.Host().IsValid() {
		key = p.OfFamily(p.Backend.Addr()).AddrPort
	}
	return nft.Element{Set: endedName(p.Backend.Addr()), Key: nft.AddrPortKey(key), Value: p.Backend, Comment: p.Name}
}

// endedPort reads a note back. ok is false if no engine can have made it.
func endedPort(e nft.Element) (p portset.Port, ok bool) {
	name, _ := nat.ParseComment(e.Comment)
	p = portset.Port{Frontend: portset.Frontend{Proto: nat.UDP, AddrPort: e.Key.AddrPort()}, Target: portset.Target{Backend: e.Value, Name: name}}
	return p, p.AddrPort.Port() != 0 && p.Mapping().Validate() == nil && !p.ProxiedOnly()
}

// forgetEnded takes notes out of the table whose flows have gone. If that fails they ask
// for what is done already.
func (e *Engine) forgetEnded(notes []nft.Element) {
	if len(notes) == 0 {
		return
	}
	if err := e.table.UpdateFinally(nft.Change{Delete: notes}); err != nil {
		e.log.Warn("records of expired mappings could not be removed from the table", "table", e.opts.Table, "error", err)
	}
}

// endFlows does what notes that were found ask for.
func (e *Engine) endFlows(notes []nft.Element) error {
	if len(notes) == 0 {
		return nil
	}
	var c portset.Change
	for _, note := range notes {
		p, _ := endedPort(note)
		if _, again := e.mappings.Get(p.Frontend); !again {
			c.Removed = append(c.Removed, p)
		}
	}
	if err := e.deleteFlows(nat.UDP, c); err != nil {
		return err
	}
	e.opts.Trace("ended")
	return e.table.UpdateFinally(nft.Change{Delete: notes})
}
