// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portholder

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/portset"
)

// The pause between two attempts doubles up to the longest, because an attempt costs a few
// system calls for each port.
const (
	firstPause   = time.Second
	longestPause = 30 * time.Second
	// retryPorts bounds the ports of one attempt, because other calls wait for it.
	retryPorts = 1024
)

// retry is when to try again to bind which ports.
type retry struct {
	ports  map[portset.Frontend]struct{}
	at     time.Time     // of the next attempt
	pause  time.Duration // after it
	sooner chan struct{} // see Holder.Sooner
}

func newRetry() retry {
	return retry{ports: map[portset.Frontend]struct{}{}, sooner: make(chan struct{}, 1)}
}

// scheduleRetry has a port tried again after the first pause.
func (h *Holder) scheduleRetry(f portset.Frontend) {
	h.retry.ports[f] = struct{}{}
	h.retry.restart(h.opts.Now().Add(firstPause))
}

// restart begins with short pauses again, from the time of the next attempt on.
func (r *retry) restart(at time.Time) {
	r.at, r.pause = at, firstPause
	select {
	case r.sooner <- struct{}{}:
	default:
	}
}

// Sooner receives when Retry is to be called before the time that it returned.
func (h *Holder) Sooner() <-chan struct{} {
	return h.retry.sooner
}

// RetryNow makes the next Retry try at once: a change may have freed a port.
func (h *Holder) RetryNow() {
	if len(h.retry.ports) != 0 {
		h.retry.restart(h.opts.Now())
	}
}

// Retry tries to bind and serve the ports that could not be bound, if it is time, and
// returns how long it is until the next attempt. ok is false if there is none.
func (h *Holder) Retry(published *portset.Set) (next time.Duration, ok bool) {
	if len(h.retry.ports) == 0 {
		return 0, false
	}
	r, now := &h.retry, h.opts.Now()
	if wait := r.at.Sub(now); wait > 0 {
		return wait, true
	}
	attempts := 0
	for f := range r.ports { // in no order, so that each has its turn
		t, ok := published.Get(f)
		if !ok {
			delete(r.ports, f)
			continue
		}
		if attempts++; attempts > retryPorts {
			break
		}
		err := h.hold(portset.Port{Frontend: f, Target: t})
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
			break // the others would fail too
		}
		if err == nil {
			delete(r.ports, f)
			h.opts.Log.Info("mapping is served now", "mapping", f.Mapping(t).String())
		}
	}
	if len(r.ports) == 0 {
		return 0, false
	}
	next = r.pause
	r.at, r.pause = now.Add(next), min(2*next, longestPause)
	return next, true
}
