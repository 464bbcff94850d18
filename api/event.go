// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// EventType is the kind of an event.
type EventType string

// The types of events. Others may be added: a reader skips those it does not know.
const (
	// EventPublished: the mapping was published, or has replaced another one.
	EventPublished EventType = "published"
	// EventUnpublished: the mapping was removed.
	EventUnpublished EventType = "unpublished"
	// EventExpired: the mapping has reached its expiry.
	EventExpired EventType = "expired"
	// EventRepaired: another program had changed the mapping, or without one the table, and it
	// was repaired.
	EventRepaired EventType = "repaired"
	// EventLost: the reader was too slow, and events were lost here. It should read the
	// mappings again.
	EventLost EventType = "lost"
	// EventHost: the host has changed, as Message says.
	EventHost EventType = "host"
)

// Event is a change of the published mappings: a line of GET /v1/events.
type Event struct {
	Type EventType `json:"type"`
	// Time is when it happened.
	Time time.Time `json:"time"`
	// Mapping is a single port, or a range if ranges were asked for; nil: the event is about the
	// table as a whole, or an EventLost or EventHost.
	Mapping *Mapping `json:"mapping,omitempty"`
	// Message says what has changed on the host and what was done about it, in an EventHost.
	Message string `json:"message,omitempty"`
	// Lost is how many events were missed, in an EventLost.
	Lost uint64 `json:"lost,omitempty"`
}

// eventsOf returns the documents of an event: one for each port, with ranges for each range, or
// one without a mapping.
func eventsOf(e nat.Event, ranges bool) iter.Seq[Event] {
	doc := Event{Type: EventType(e.Kind.String()), Time: e.Time.UTC(), Message: e.Message, Lost: e.Lost}
	return func(yield func(Event) bool) {
		if len(e.Mappings) == 0 {
			yield(doc)
			return
		}
		for _, m := range e.Mappings {
			each := nat.Expand(m)
			if ranges {
				each = slices.Values([]nat.Mapping{m})
			}
			for m := range each {
				m := mapping(m)
				doc.Mapping = &m
				if !yield(doc) {
					return
				}
			}
		}
	}
}

// streamBatch is how many lines of one event are written at once.
const streamBatch = 256

func (h *handler) getEvents(w http.ResponseWriter, c *call) (any, error) {
	release, err := h.acquire(c, h.streams, 0, "stream events")
	if err != nil {
		return nil, err
	}
	defer release()
	ctx, cancel := context.WithCancel(c.Context())
	defer cancel()
	events := h.Events(ctx)
	w.Header().Set("Content-Type", typeEvents)
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	// From here on the client misses no event.
	if err := rc.Flush(); err == nil && c.Method != http.MethodHead {
		h.stream(ctx, w, rc, events, c.flag("ranges"))
	}
	return nil, nil
}

// stream writes events until the client goes or the server stops. It may wait for a slow
// client in the middle of a line for as long as the client likes, except at shutdown.
func (h *handler) stream(ctx context.Context, w http.ResponseWriter, rc *http.ResponseController, events iter.Seq[nat.Event], ranges bool) {
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		_ = rc.SetWriteDeadline(time.Now().Add(h.limits.lastTime))
	})
	defer func() {
		if !stop() {
			<-ended
		}
	}()
	var lines bytes.Buffer
	enc := json.NewEncoder(&lines)
	enc.SetEscapeHTML(false)
	for event := range events {
		n := 0
		for line := range eventsOf(event, ranges) {
			_ = enc.Encode(line)
			if n++; n%streamBatch == 0 && flush(w, rc, &lines) != nil {
				return
			}
		}
		if flush(w, rc, &lines) != nil {
			return
		}
	}
}

// flush sends lines, and empties the buffer.
func flush(w io.Writer, rc *http.ResponseController, lines *bytes.Buffer) error {
	if _, err := lines.WriteTo(w); err != nil {
		return err
	}
	return rc.Flush()
}

// maxEvent bounds the line of an event, in bytes; the longest has some 400.
const maxEvent = 64 << 10

// Events returns what happens to what is published, from now on until ctx is done or
// the server stops, a single port at a time. The events are to be iterated over, once; if they end otherwise,
// the last one comes with an error. A reader that is too slow is told so by an
// EventLost.
func (c *Client) Events(ctx context.Context) (iter.Seq2[Event, error], error) {
	return c.events(ctx, "/v1/events")
}

// RangeEvents is Events with an event for each range, where that has one for each port of it.
func (c *Client) RangeEvents(ctx context.Context) (iter.Seq2[Event, error], error) {
	return c.events(ctx, ranged("/v1/events"))
}

func (c *Client) events(ctx context.Context, path string) (iter.Seq2[Event, error], error) {
	resp, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	return func(yield func(Event, error) bool) {
		defer func() { _ = resp.Body.Close() }() // was only read
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, maxEvent)
		for lines.Scan() {
			var event Event
			if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
				yield(Event{}, fmt.Errorf("read events of %s: %w", c.path, err))
				return
			}
			if !yield(event, nil) {
				return
			}
		}
		if err := lines.Err(); err != nil && ctx.Err() == nil {
			yield(Event{}, fmt.Errorf("read events of %s: %w", c.path, cause(err)))
		}
	}, nil
}
