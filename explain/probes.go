// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"time"

	"github.com/nftnat/nftnat/explain/internal/host"
)

// probesAge is how long the answer of a backend stands for what it would answer.
const probesAge = time.Minute

// Probes keeps what backends have answered, so that examinations one after the other ask each at
// most once a minute. It is for one goroutine at a time.
type Probes struct {
	results map[probedKey]probedAt
}

type probedAt struct {
	host.ProbeResult
	at time.Time
}

// NewProbes returns one that knows nothing.
func NewProbes() *Probes { return &Probes{map[probedKey]probedAt{}} }

// fresh returns what a backend has answered in the last minute. Nil keeps nothing.
func (p *Probes) fresh(key probedKey, now time.Time) (host.ProbeResult, bool) {
	if p == nil {
		return host.ProbeResult{}, false
	}
	r, ok := p.results[key]
	return r.ProbeResult, ok && now.Sub(r.at) < probesAge
}

// keep keeps an answer.
func (p *Probes) keep(key probedKey, r host.ProbeResult, now time.Time) {
	if p != nil {
		p.results[key] = probedAt{r, now}
	}
}

// forget forgets what is old.
func (p *Probes) forget(now time.Time) {
	if p == nil {
		return
	}
	for key, r := range p.results {
		if now.Sub(r.at) >= probesAge {
			delete(p.results, key)
		}
	}
}
