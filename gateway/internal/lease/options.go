// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"cmp"
	"context"
	"iter"
	"log/slog"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

// Daemon is what publishes the leases: an [api.Client].
type Daemon interface {
	Publish(ctx context.Context, how nat.PublishOptions, ms ...nat.Mapping) ([]nat.Mapping, error)
	Remove(ctx context.Context, r nat.Removal) ([]nat.Mapping, error)
	Mappings(ctx context.Context) ([]nat.Mapping, error)
	RangeEvents(ctx context.Context) (iter.Seq2[api.Event, error], error)
}

// Limits bound what clients get.
type Limits struct {
	// Min and Max bound the time of a lease; Min does not bound those of NAT-PMP, which must not
	// last longer than was asked for (RFC 6886 section 3.3), and Max not those of IGD, which has no way to say
	// that less was given. Zero: 2 minutes and 24 hours.
	Min, Max time.Duration
	// Quota is the most leases that a client may have. Zero: 32.
	Quota int
}

// The limits if none are given.
const (
	DefaultMin   = 2 * time.Minute
	DefaultMax   = 24 * time.Hour
	DefaultQuota = 32
)

func (l Limits) complete() Limits {
	return Limits{cmp.Or(l.Min, DefaultMin), cmp.Or(l.Max, DefaultMax), cmp.Or(l.Quota, DefaultQuota)}
}

// clamp returns for how long a lease is given. Zero: it has no end.
func (l Limits) clamp(kind Kind, asked time.Duration) time.Duration {
	switch {
	case asked <= 0:
		return 0
	case kind == PMP:
		return min(asked, l.Max)
	case kind == IGD: // whose client would not learn of less, and renew too late
		return max(asked, l.Min)
	}
	return min(max(asked, l.Min), l.Max)
}

// Options say what leases are given, and by whom.
type Options struct {
	// Daemon is required.
	Daemon Daemon
	// Created asks the daemon when its table was created, in seconds since the host was started
	// (CLOCK_BOOTTIME in clock_gettime(2)). Zero: there is no table, or it is not known. Required.
	Created func(context.Context) (int64, error)
	// Rules say which ports clients may have. Nil: [DefaultRules].
	Rules  Rules
	Limits Limits
	// Log gets what operators should know, at most a line a second. Nil: nothing is logged.
	Log *slog.Logger
	// Now is the clock. Nil: that of the host.
	Now func() time.Time
	// Boottime is the time since the host was started, in seconds. Nil: that of the host.
	Boottime func() int64
}
