// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"iter"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// EventType says what happened.
type EventType string

// The types of events. Others may be added: a reader skips those it does not know.
const (
	// EventPublished: the mapping is published from now on, also where another one
	// was at its frontend before.
	EventPublished EventType = "published"
	// EventUnpublished: somebody has unpublished the mapping.
	EventUnpublished EventType = "unpublished"
	// EventExpired: the mapping's time is over.
	EventExpired EventType = "expired"
	// EventRepaired: the mapping, or without one the table, was changed by somebody
	// else and has been put back.
	EventRepaired EventType = "repaired"
	// EventLost: the reader was too slow, and events were lost here. It should look
	// what is published now.
	EventLost EventType = "lost"
)

// Event is something that happened to what is published: a line of GET /v1/events.
type Event struct {
	Type EventType `json:"type"`
	// Time is when it happened.
	Time time.Time `json:"time"`
	// Mapping is what it happened to, a single port; nil: the table as a whole, or
	// nothing, in an EventLost.
	Mapping *Mapping `json:"mapping,omitempty"`
	// Lost is the number of events that an EventLost stands for; else it is zero.
	Lost uint64 `json:"lost,omitempty"`
}

// eventsOf returns the documents of an event: one for each port, or one without a mapping.
func eventsOf(e nat.Event) iter.Seq[Event] {
	doc := Event{Type: EventType(e.Kind.String()), Time: e.Time.UTC(), Lost: e.Lost}
	return func(yield func(Event) bool) {
		if len(e.Mappings) == 0 {
			yield(doc)
			return
		}
		for _, m := range e.Mappings {
			for single := range nat.Expand(m) {
				told := mapping(single)
				doc.Mapping = &told
				if !yield(doc) {
					return
				}
			}
		}
	}
}
