// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import "time"

// Event is something that happened to what is published. Its Mappings must not be changed.
type Event struct {
	Kind EventKind
	Time time.Time
	// Mappings are what it happened to, ranges as one. None: the table as a whole, or the
	// host.
	Mappings []Mapping
	// Message says what happened, in an EventHost; of other events it is empty.
	Message string
	// Lost is how many ports' events an EventLost stands for; of other events it is zero.
	Lost uint64
}

// EventKind says what happened.
type EventKind int

// The kinds of events.
const (
	// EventPublished: the mappings are published from now on. Others may have been at
	// their frontends before.
	EventPublished EventKind = iota + 1
	// EventUnpublished: a caller has unpublished the mappings.
	EventUnpublished
	// EventExpired: the mappings have expired.
	EventExpired
	// EventRepaired: somebody else changed the table, and it was repaired.
	EventRepaired
	// EventLost: the reader was too slow, and events were lost.
	EventLost
	// EventHost: the host has changed, and the engine has followed or cannot; Message says
	// what and how.
	EventHost
)

// String returns what happened, as the HTTP API calls it: "published".
func (k EventKind) String() string {
	names := [...]string{
		EventPublished: "published", EventUnpublished: "unpublished", EventExpired: "expired",
		EventRepaired: "repaired", EventLost: "lost", EventHost: "host",
	}
	if k <= 0 || int(k) >= len(names) {
		return "invalid"
	}
	return names[k]
}

// Ports returns how many ports the event is about; 1 if it is about the table or the host.
func (e Event) Ports() int {
	if len(e.Mappings) == 0 {
		return 1
	}
	n := 0
	for _, m := range e.Mappings {
		n += int(m.More) + 1
	}
	return n
}
