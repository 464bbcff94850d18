// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
)

// maxEvent bounds the line of an event, in bytes; the longest has some 400.
const maxEvent = 64 << 10

// Events returns what happens to what is published, from now on until ctx is done or
// the server stops. The events are to be iterated over, once; if they end otherwise,
// the last one comes with an error. A reader that is too slow is told so by an
// EventLost.
func (c *Client) Events(ctx context.Context) (iter.Seq2[Event, error], error) {
	resp, err := c.send(ctx, http.MethodGet, "/v1/events", nil)
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
