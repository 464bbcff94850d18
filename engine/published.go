// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import "net/netip"

// published is what an engine has published. The kernel holds the same.
type published struct {
	// mappings has a port for each. What the kernel ends by itself, the next call ends
	// here.
	mappings registry
	expiries expiries // of the mappings that end by themselves
	reserved *reservations
	// segments are the on-link prefixes in the inside sets, and how many ports are
	// published to backends on each.
	segments map[netip.Prefix]int
	backends portCounts
}

func newPublished(reserved *reservations) published {
	return published{
		mappings: newRegistry(), reserved: reserved,
		segments: map[netip.Prefix]int{}, backends: portCounts{},
	}
}

// put notes that a port is published, and reports whether none ends sooner. Its frontend
// is reserved, and its backend counted, by the caller.
func (l *published) put(p port) (first bool) {
	l.mappings.put(p)
	return l.expiries.add(p, &l.mappings)
}

// remove notes that a port is no longer published, and releases its frontend.
func (l *published) remove(p port) {
	l.mappings.delete(p.frontend)
	l.reserved.remove(p.frontend)
}

// countPort counts one port in or out.
func (l *published) countPort(p port, by int) {
	if p.proxiedOnly() {
		return
	}
	a := p.backend.Addr()
	l.backends.add(a, by)
	if s, ok := around(l.segments, a); ok {
		l.segments[s] += by
	}
}

// count counts ports in or out, as by says: 1 or -1.
func (l *published) count(ports portCounts, by int) {
	countOn(l.segments, ports, by)
	l.backends.addAll(ports, by)
}
