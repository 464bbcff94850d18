// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"net/netip"
	"sync"
	"time"
)

// Rate is how much a source may send.
type Rate struct {
	PerSecond int // in the long run
	Burst     int // at once
}

const (
	defaultPerSecond = 64
	defaultBurst     = 256
	// maxSources bounds how many sources are known. Further ones share what one may send.
	maxSources = 4096
)

// limiter bounds what each source sends.
type limiter struct {
	rate Rate

	mu      sync.Mutex
	sources map[netip.Addr]*bucket
	others  bucket
	swept   time.Time
}

// bucket is what a source may still send.
type bucket struct {
	tokens float64
	at     time.Time
}

func newLimiter(r Rate) *limiter {
	if r.PerSecond <= 0 {
		r.PerSecond = defaultPerSecond
	}
	if r.Burst <= 0 {
		r.Burst = defaultBurst
	}
	return &limiter{rate: r, sources: map[netip.Addr]*bucket{}}
}

// allow reports whether a source may send now.
func (l *limiter) allow(a netip.Addr, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.sources[a]
	if b == nil {
		if len(l.sources) >= maxSources {
			l.sweep(now)
		}
		if b = &l.others; len(l.sources) < maxSources {
			b = &bucket{}
			l.sources[a] = b
		}
	}
	return l.spend(b, now)
}

func (l *limiter) spend(b *bucket, now time.Time) bool {
	if b.at.IsZero() {
		b.tokens = float64(l.rate.Burst)
	} else {
		b.tokens = min(float64(l.rate.Burst), b.tokens+now.Sub(b.at).Seconds()*float64(l.rate.PerSecond))
	}
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// sweep forgets sources that may send everything again, at most once a second.
func (l *limiter) sweep(now time.Time) {
	if now.Sub(l.swept) < time.Second {
		return
	}
	l.swept = now
	full := time.Duration(float64(l.rate.Burst) / float64(l.rate.PerSecond) * float64(time.Second))
	for a, b := range l.sources {
		if now.Sub(b.at) >= full {
			delete(l.sources, a)
		}
	}
}
