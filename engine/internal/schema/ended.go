// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"net/netip"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// Flows over UDP go on to a backend after its port was unpublished, until they are deleted.
// So that a process that is killed in between does not leave them, the transaction that
// removes a port adds a note of it to one of the maps of ended ports. The note is removed
// once the flows are deleted. An engine that finds notes deletes the flows.

// endedMap returns the name of the map of notes for the family of a backend.
func endedMap(backend netip.Addr) string {
	return nat.UDP.String() + familyDigit(backend) + endedSuffix
}

const endedSuffix = "_ended"

// EndedElements returns the notes on ports that are removed.
func EndedElements(removed []portset.Port) (es []nft.Element) {
	for _, p := range removed {
		if p.Proto == nat.UDP && !p.ProxiedOnly() {
			es = append(es, endedElement(p))
		}
	}
	return es
}

// endedElement returns the note on a port. Flows to any address are of its backend's
// family, so that 0.0.0.0 and :: can stand for any in the key.
func endedElement(p portset.Port) nft.Element {
	key := p.AddrPort
	if !p.Host().IsValid() {
		key = p.OfFamily(p.Backend.Addr()).AddrPort
	}
	return nft.Element{Set: endedMap(p.Backend.Addr()), Key: nft.AddrPortKey(key), Value: p.Backend, Comment: p.Name}
}

// readEnded decodes a note. ok is false if no engine can have made it.
func readEnded(e nft.Element) (p portset.Port, ok bool) {
	name, _ := nat.ParseComment(e.Comment)
	p = portset.Port{
		Frontend: portset.Frontend{Proto: nat.UDP, AddrPort: e.Key.AddrPort()},
		Target:   portset.Target{Backend: e.Value, Name: name},
	}
	return p, p.AddrPort.Port() != 0 && p.Mapping().Validate() == nil && !p.ProxiedOnly()
}
