// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

// read reads again and again.
func (h *hub) read(ctx context.Context) {
	r := reader{hub: h}
	for {
		began := time.Now()
		r.pass(ctx)
		if !sleep(ctx, max(changePause, busy*time.Since(began))) || !h.due(ctx, began) {
			return
		}
	}
}

// due waits until it is time to read: for clients when something has changed. It reports whether ctx is
// still not done.
func (h *hub) due(ctx context.Context, began time.Time) bool {
	timer := time.NewTimer(max(0, h.interval()-time.Since(began)))
	defer timer.Stop()
	for ctx.Err() == nil {
		select {
		case <-h.wake:
			if h.watched() {
				return true
			}
		case <-timer.C:
			return true
		case <-ctx.Done():
		}
	}
	return false
}

// interval is how often connections are counted.
func (h *hub) interval() time.Duration {
	if h.watched() {
		return countEvery
	}
	return sampleEvery
}

// watched reports whether there are clients.
func (h *hub) watched() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.streams) != 0 || time.Since(h.asked) < pageTime
}

// reader has what a reading needs of those before it.
type reader struct {
	hub *hub
	facts
	counts  counts
	conns   []nat.Connections
	counted time.Time
	said    string
}

// pass reads what may have changed, and shows it.
func (r *reader) pass(ctx context.Context) {
	h := r.hub
	h.mu.Lock()
	wanted := h.wanted
	h.began = time.Now()
	dirty := h.dirty
	h.dirty = false
	found := h.found
	h.mu.Unlock()
	defer h.done(wanted)
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	err := r.answer(ctx, dirty)
	if err != nil && ctx.Err() == nil || errors.Is(err, context.DeadlineExceeded) {
		h.mu.Lock()
		h.dirty = true
		h.mu.Unlock()
	}
	if text := errorText(err); text != r.said && !errors.Is(err, context.Canceled) {
		if r.said = text; err != nil {
			h.Log.Warn("the daemon does not answer", "error", err)
		}
	}
	r.failed = errorText(err)
	r.askGateway(ctx)
	r.diagnosis, r.diagnosed = found.diagnosis, found.diagnosed
	h.show(r.facts)
}

// answer reads the daemon, and meanwhile shows that it is late, if it is.
func (r *reader) answer(ctx context.Context, dirty bool) error {
	before := r.facts
	answered := make(chan error, 1)
	go func() { answered <- r.ask(ctx, dirty) }()
	late := time.NewTimer(lateTime)
	defer late.Stop()
	select {
	case err := <-answered:
		return err
	case <-late.C:
	}
	if before.failed == "" {
		before.failed = "it has been silent for " + lateTime.String() + ", and may be busy with a large change"
		r.hub.show(before)
	}
	return <-answered
}

// ask reads the daemon.
func (r *reader) ask(ctx context.Context, dirty bool) error {
	status, err := r.hub.Daemon.Status(ctx)
	if err != nil {
		return err
	}
	ms := r.mappings
	if dirty {
		if ms, err = r.hub.Daemon.Mappings(ctx); err != nil {
			return err
		}
	}
	count := time.Since(r.counted) >= countEvery-changePause || r.counted.IsZero()
	if count {
		began := time.Now()
		conns, err := r.hub.Daemon.Connections(ctx)
		if err != nil {
			return err
		}
		r.conns, r.counted = conns, began
	}
	// Nothing fails from here on: numbers and mappings belong together.
	if dirty {
		r.mappings, r.ids = ms, make([]string, len(ms))
		for i, m := range ms {
			r.ids[i] = rowID(m)
		}
	}
	if dirty || count {
		r.flows, r.hits, r.total = r.counts.add(r.ids, r.mappings, r.conns)
	}
	if count {
		r.history.add(r.hub.now(), r.total)
	}
	// Whole seconds of uptime would change the page each second.
	status.Uptime = 0
	r.status, r.read = status, r.hub.now()
	return nil
}

// askGateway reads the gateway. Without its socket there is none.
func (r *reader) askGateway(ctx context.Context) {
	r.gateway, r.absent = nil, ""
	if r.hub.Gateway == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lateTime)
	defer cancel()
	g, err := r.hub.Gateway.Gateway(ctx)
	switch {
	case errors.Is(err, api.ErrNoServer) && errors.Is(err, fs.ErrNotExist):
	case err != nil:
		r.absent = err.Error()
	default:
		r.gateway = &g
	}
}
