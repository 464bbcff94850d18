// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"context"
	"time"
)

// stale reports whether the doctor has to look again. The caller holds mu.
func (h *hub) stale() bool {
	return h.looked.IsZero() || h.changed.After(h.looked) || time.Since(h.looked) > lookEvery
}

// diagnose has the doctor look while there are clients: after changes, and each minute.
func (h *hub) diagnose(ctx context.Context) {
	said := ""
	timer := time.NewTicker(time.Second)
	defer timer.Stop()
	for {
		h.mu.Lock()
		due := h.stale() && time.Now().After(h.rested) && (time.Since(h.changed) >= lookPause || time.Since(h.looked) > lookLate)
		h.mu.Unlock()
		if due && h.watched() {
			err := h.examine(ctx)
			if text := errorText(err); text != said && ctx.Err() == nil {
				if said = text; err != nil {
					h.Log.Warn("the doctor gives no answer", "error", err)
				}
			}
		}
		select {
		case <-timer.C:
		case <-h.again:
			if !sleep(ctx, lookPause) {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// examine asks the doctor.
func (h *hub) examine(ctx context.Context) error {
	at, began := h.now(), time.Now()
	h.mu.Lock()
	h.looked = began
	h.rested = began.Add(readTimeout) // nobody waits for one that is under way
	h.mu.Unlock()
	d, err := h.Daemon.Doctor(ctx)
	h.mu.Lock()
	h.rested = time.Now().Add(max(2*time.Second, lookRest*time.Since(began)))
	if err == nil {
		h.found.diagnosis, h.found.diagnosed = d, at
	}
	h.wanted++
	close(h.looking)
	h.looking = make(chan struct{})
	h.mu.Unlock()
	poke(h.wake)
	return err
}
