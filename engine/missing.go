// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/portset"
)

// A port that another process holds when its mapping is adopted is published all the
// same, for the kernel does so already. It is missing among the proxies until the
// process has gone and Run has taken the port.

// Between two attempts is a pause, which doubles up to the longest while nothing
// changes: each costs a few system calls a port.
const (
	firstPause   = time.Second
	longestPause = 30 * time.Second
	// missingAttempts bounds how many ports one attempt is about: the engine's other
	// callers wait for it.
	missingAttempts = 1024
)

// missing are ports that could not be bound.
type missing struct {
	ports map[portset.Frontend]struct{}
	pause time.Duration
	at    time.Time // of the next attempt
}

// add notes a port that could not be bound.
func (m *missing) add(f portset.Frontend, now time.Time) {
	if m.ports == nil {
		m.ports = map[portset.Frontend]struct{}{}
	}
	m.ports[f] = struct{}{}
	m.pause, m.at = firstPause, now.Add(firstPause)
}

// noteMissing has Run try again for a port that could not be bound.
func (e *Engine) noteMissing(f portset.Frontend) {
	e.proxies.missing.add(f, e.now())
	e.wake()
}

// hurry has Run try again at once: what has changed may be why a port is free now.
func (e *Engine) hurry() {
	if e.proxies == nil || len(e.proxies.missing.ports) == 0 {
		return
	}
	e.proxies.missing.pause, e.proxies.missing.at = firstPause, e.now()
	e.wake()
}

// wake has Run look what there is to do.
func (e *Engine) wake() {
	select {
	case e.sooner <- struct{}{}:
	default: // it is to wake already
	}
}

// serveMissing tries to bind and serve what is missing, if it is time to, and returns
// how long it is until the next attempt.
func (e *Engine) serveMissing(now time.Time) (next time.Duration, ok bool) {
	if e.proxies == nil || len(e.proxies.missing.ports) == 0 {
		return 0, false
	}
	m := &e.proxies.missing
	if wait := m.at.Sub(now); wait > 0 {
		return wait, true
	}
	attempts := 0
	for f := range m.ports { // in no order, so that each has its turn
		t, published := e.mappings.Get(f)
		if !published {
			delete(m.ports, f)
			continue
		}
		if attempts++; attempts > missingAttempts {
			break
		}
		err := e.proxies.adopt(portset.Port{Frontend: f, Target: t})
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
			break // nor is there one for the others
		}
		if err == nil {
			delete(m.ports, f)
			e.log.Info("mapping is served now", "mapping", f.Mapping(t).String())
		}
	}
	if len(m.ports) == 0 {
		return 0, false
	}
	next = m.pause
	m.at, m.pause = now.Add(next), min(2*m.pause, longestPause)
	return next, true
}
