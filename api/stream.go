// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"iter"
	"net/http"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// streamBatch is how many lines of one event are written at once.
const streamBatch = 256

func (h *handler) getEvents(w http.ResponseWriter, c *call) error {
	if _, err := c.flags(); err != nil {
		return err
	}
	if h.Events == nil {
		return absent("events")
	}
	release, err := h.acquire(c, h.streams, 0, "stream events")
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := context.WithCancel(c.Context())
	defer cancel()
	events := h.Events(ctx)
	w.Header().Set("Content-Type", typeEvents)
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	// The header tells the client that from here on it misses nothing.
	if err := rc.Flush(); err != nil || c.Method == http.MethodHead {
		return nil
	}
	h.stream(ctx, w, rc, events)
	return nil
}

// stream writes events until the client goes or the server stops. It may wait for a slow
// client in the middle of a line for as long as the client likes, except at shutdown.
func (h *handler) stream(ctx context.Context, w http.ResponseWriter, rc *http.ResponseController, events iter.Seq[nat.Event]) {
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
		for line := range eventsOf(event) {
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

func (h *handler) getStatus(w http.ResponseWriter, c *call) error {
	if _, err := c.flags(); err != nil {
		return err
	}
	if h.Status == nil {
		return absent("status")
	}
	status, err := h.Status(c.ctx)
	if err != nil {
		return err
	}
	if status.Warnings == nil {
		status.Warnings = []string{}
	}
	h.writeJSON(w, c, http.StatusOK, status)
	return nil
}

func (h *handler) getProgress(w http.ResponseWriter, c *call) error {
	if _, err := c.flags(); err != nil {
		return err
	}
	if h.Progress == nil {
		return absent("progress")
	}
	h.writeJSON(w, c, http.StatusOK, h.Progress())
	return nil
}

func (h *handler) getMetrics(w http.ResponseWriter, c *call) error {
	if h.Metrics == nil {
		return absent("metrics")
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(h.limits.writeTime))
	h.Metrics.ServeHTTP(w, c.Request)
	return nil
}

func absent(what string) error {
	return problem(http.StatusNotFound, CodeUnsupported, "this server has no "+what)
}
