// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"context"
	"time"

	"github.com/nftnat/nftnat/api"
)

// follow passes the daemon's events on, and has read what they are about.
func (h *hub) follow(ctx context.Context) {
	said := ""
	for pause := firstRetry; ctx.Err() == nil; pause = min(2*pause, lastRetry) {
		began := time.Now()
		events, err := h.Daemon.RangeEvents(ctx)
		h.note()
		if err == nil {
			for e, eventErr := range events {
				if err = eventErr; err != nil {
					break
				}
				h.send(e)
				h.note()
			}
			h.note()
		}
		if text := errorText(err); text != said && ctx.Err() == nil {
			if said = text; err != nil {
				h.Log.Warn("events of the daemon are not followed", "error", err)
			}
		}
		if time.Since(began) > lastRetry {
			pause = firstRetry
		}
		sleep(ctx, pause)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// note has the mappings read soon.
func (h *hub) note() {
	h.mu.Lock()
	h.changed, h.dirty = time.Now(), true
	h.wanted++
	h.mu.Unlock()
	poke(h.wake)
	poke(h.again)
}

// send passes a daemon's event on as it is, except that clients have lost nothing if this process has.
func (h *hub) send(e api.Event) {
	if e.Type == api.EventLost {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.broadcast(encode(e), true)
}
