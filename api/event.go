// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
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

// happening is an event as a feed keeps it, without pointers of its own; documents
// are made by who reads them.
type happening struct {
	what    EventType
	time    int64 // nanoseconds since 1970
	mapping nat.Mapping
}

func (h happening) event() Event {
	e := Event{Type: h.what, Time: time.Unix(0, h.time).UTC()}
	if h.mapping != (nat.Mapping{}) {
		m := mapping(h.mapping)
		e.Mapping = &m
	}
	return e
}
