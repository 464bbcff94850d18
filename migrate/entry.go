// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/nat"
)

type portKey struct {
	proto nat.Proto
	port  uint16
}

// add adds an entry, unless it contradicts one before it: the first one gets the packets.
func (im *Import) add(e Entry) {
	origin := e.Origins[0]
	m := e.Mapping
	if m.Frontend.Port() == 0 { // any free one, for Validate
		im.leaveOut(origin, "it has no port of the host")
		return
	}
	if err := m.Validate(); err != nil {
		im.leaveOut(origin, reasonOf(err))
		return
	}
	for i := range im.overlapping(m) {
		other := &im.Entries[i]
		if same(other.Mapping, m) {
			if !slices.Contains(other.Origins, origin) {
				other.Origins = append(other.Origins, origin)
			}
			return
		}
		if e.base != nil && other.base != nil && e.rank == other.rank && e.base.Table != other.base.Table {
			im.drop[i] = fmt.Sprintf("%s has a rule of the same priority for the same port, and which one is asked first is not known", e.base.Table.Name)
			im.leaveOut(origin, fmt.Sprintf("%s has a rule of the same priority for the same port, and which one is asked first is not known", other.base.Table.Name))
			return
		}
		im.leaveOut(origin, fmt.Sprintf("%s is taken by %s: %s", describe(m), other.Mapping, other.Origins[0]))
		return
	}
	for port := int(m.Frontend.Port()); port <= int(m.Frontend.Port())+int(m.More); port++ {
		k := portKey{m.Proto, uint16(port)}
		im.ports[k] = append(im.ports[k], len(im.Entries))
	}
	im.Entries = append(im.Entries, e)
}

func describe(m nat.Mapping) string { return m.Proto.String() + " " + m.FrontendText() }

func reasonOf(err error) string {
	if bad := new(nat.InvalidError); asInvalid(err, &bad) {
		return bad.Reason
	}
	return err.Error()
}

// same reports whether two mappings send the same packets to the same backend.
func same(a, b nat.Mapping) bool {
	return a.Proto == b.Proto && a.Frontend == b.Frontend && a.Backend == b.Backend && a.More == b.More && a.From == b.From
}

// overlapping returns the indexes of the entries that have a port of a mapping.
func (im *Import) overlapping(m nat.Mapping) map[int]bool {
	var found map[int]bool
	for port := int(m.Frontend.Port()); port <= int(m.Frontend.Port())+int(m.More); port++ {
		for _, i := range im.ports[portKey{m.Proto, uint16(port)}] {
			if meet(im.Entries[i].Mapping.Frontend.Addr(), m.Frontend.Addr()) {
				if found == nil {
					found = map[int]bool{}
				}
				found[i] = true
			}
		}
	}
	return found
}

// meet reports whether an address can be that of both frontends.
func meet(a, b netip.Addr) bool {
	return a == b || covers(a, b) || covers(b, a)
}

// covers reports whether a frontend's address stands for another one.
func covers(a, b netip.Addr) bool {
	return !a.IsValid() || a == b || a.IsUnspecified() && b.IsValid() && a.Is4() == b.Is4()
}

// finish completes the entries by what is known of the host.
func (im *Import) finish(h *host) {
	var kept []Entry
	at := map[nat.Mapping]int{} // indexes of kept
	for i, e := range im.Entries {
		if reason, ambiguous := im.drop[i]; ambiguous {
			im.leaveOut(e.Origins[0], reason)
			continue
		}
		if reason := h.unfit(e.Mapping); reason != "" {
			im.leaveOut(e.Origins[0], reason)
			continue
		}
		if e.base == nil { // it is no rule, of which claim has looked
			if rule := h.marks(e.Mapping); rule != "" {
				im.leaveOut(e.Origins[0], markedBy+rule)
				continue
			}
		}
		if _, ours := h.publishedIn(e.Mapping); !ours && h.live && e.Mapping.From != (nat.Sources{}) {
			if text := h.holder(e.Mapping); text != "" {
				im.leaveOut(e.Origins[0], "it is for some clients only, and others are served by what has the port: "+text)
				continue
			}
		}
		h.complete(&e)
		if j, ok := at[e.Mapping]; ok { // two addresses of what is published at all
			kept[j].Origins = append(kept[j].Origins, e.Origins...)
			continue
		}
		at[e.Mapping] = len(kept)
		kept = append(kept, e)
	}
	im.Entries = kept
}
