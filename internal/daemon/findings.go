// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nftnat/nftnat/explain"
	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/nat"
)

// DefaultDoctorInterval is how long the daemon waits at least before it looks anew what is wrong.
const DefaultDoctorInterval = 10 * time.Second

// How often the daemon looks: with doctorShare, it takes 2 % of a processor in the mean.
const (
	doctorShare  = 50
	doctorIdle   = time.Minute // if nothing has changed, as far as is known
	doctorRarely = 10 * time.Minute
	// doctorSettles is how long after a change.
	doctorSettles = time.Second
	// maxFindings is how many the status lists.
	maxFindings = 12
)

// findings are what is wrong, as long as it is.
type findings struct {
	interval time.Duration
	// examine looks for it. The results of probes are kept for a minute.
	examine func(context.Context, *explain.Probes) (report.Diagnosis, error)
	// published returns those of the mappings that are published as they are.
	published func(context.Context, ...nat.Mapping) ([]nat.Mapping, error)
	// changes are events of the host and of mappings.
	changes func(context.Context) func(yield func(nat.Event) bool)
	// send sends an event.
	send func(message string)
	log  *slog.Logger

	mu   sync.Mutex
	list []report.Finding
}

// What events begin with.
const (
	foundPrefix = "found: "
	gonePrefix  = "gone: "
)

// run looks until the context is done.
func (f *findings) run(ctx context.Context) error {
	noticed := make(chan struct{}, 1)
	var reading sync.WaitGroup
	reading.Go(func() {
		for ev := range f.changes(ctx) {
			if strings.HasPrefix(ev.Message, foundPrefix) || strings.HasPrefix(ev.Message, gonePrefix) {
				continue
			}
			select {
			case noticed <- struct{}{}:
			default:
			}
		}
	})
	defer reading.Wait()
	probes := explain.NewProbes()
	for least := f.interval; sleep(ctx, least) && awaitChange(ctx, noticed, max(0, doctorIdle-least)); {
		begin := time.Now()
		d, err := f.examine(ctx, probes)
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, nat.ErrClosed):
		case err != nil:
			f.log.Debug("what is wrong could not be found out", "error", err)
		default:
			f.update(d)
		}
		least = min(max(doctorShare*time.Since(begin), f.interval), doctorRarely)
	}
	return nil
}

// sleep waits, and reports whether the context is not done.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// awaitChange waits until something has changed and settled, or the time is over.
func awaitChange(ctx context.Context, noticed <-chan struct{}, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	case <-noticed:
		return sleep(ctx, min(doctorSettles, d))
	}
}

// update takes over a diagnosis, and tells what has come and what has gone. What could not be looked at may
// still be wrong.
func (f *findings) update(d report.Diagnosis) {
	f.mu.Lock()
	old := f.list
	f.list = d.Findings
	if d.Skipped > 0 {
		for _, o := range old {
			if !has(f.list, o) {
				f.list = append(f.list, o)
			}
		}
	}
	list := f.list
	f.mu.Unlock()
	for i, n := range slices.DeleteFunc(slices.Clone(list), func(n report.Finding) bool { return has(old, n) }) {
		if i < maxFindings {
			f.send(foundPrefix + n.String())
		}
	}
	for i, o := range slices.DeleteFunc(slices.Clone(old), func(o report.Finding) bool { return has(list, o) }) {
		if i < maxFindings {
			f.send(gonePrefix + o.String())
		}
	}
}

func has(list []report.Finding, f report.Finding) bool {
	return slices.ContainsFunc(list, func(o report.Finding) bool { return o.Key() == f.Key() })
}

// now returns what is wrong with the host and with what is published by now. A finding goes with the last of the mappings
// that it names; what is wrong with others is found again.
func (f *findings) now(ctx context.Context) []report.Finding {
	f.mu.Lock()
	list := f.list
	f.mu.Unlock()
	var named []nat.Mapping
	for i := range list {
		named = append(named, list[i].Mappings...)
	}
	if len(named) == 0 {
		return list
	}
	have, err := f.published(ctx, named...)
	if err != nil || len(have) == len(named) {
		return list
	}
	there := map[nat.Mapping]bool{}
	for _, m := range have {
		there[m] = true
	}
	var left []report.Finding
	for _, o := range list {
		about := len(o.Mappings)
		o.Mappings = slices.DeleteFunc(slices.Clone(o.Mappings), func(m nat.Mapping) bool {
			if !there[m] {
				o.Count -= int(m.More) + 1
			}
			return !there[m]
		})
		if about == 0 || len(o.Mappings) != 0 {
			left = append(left, o)
		}
	}
	return left
}

// writeMetrics writes how many there are of each severity.
func (f *findings) writeMetrics(ctx context.Context, e *exposition) {
	n := map[report.Severity]int{}
	for _, o := range f.now(ctx) {
		n[o.Severity]++
	}
	e.family("nftnat_findings", gauge, "What is wrong with published ports and the host, as doctor says.")
	for s := report.Notable; s <= report.Stops; s++ {
		e.sample("nftnat_findings", labels("severity", s.String()), float64(n[s]))
	}
}

// doctorTasks looks what is wrong, if it is to.
func (s *server) doctorTasks() []func(context.Context) error {
	if s.outside || s.DoctorInterval <= 0 {
		return nil
	}
	return []func(context.Context) error{s.findings.run}
}

// newFindings returns findings of the engine.
func (s *server) newFindings() *findings {
	return &findings{
		interval: s.DoctorInterval, log: s.log, send: func(message string) { s.engine.SendHost(message) },
		changes: func(ctx context.Context) func(func(nat.Event) bool) { return s.engine.Events(ctx) },
		examine: s.examine,
		published: func(ctx context.Context, ms ...nat.Mapping) ([]nat.Mapping, error) {
			return s.engine.Published(ctx, ms...)
		},
	}
}

// examine looks for what the status does not say by itself.
func (s *server) examine(ctx context.Context, probes *explain.Probes) (d report.Diagnosis, err error) {
	ms, err := s.engine.Mappings(ctx)
	if err != nil || len(ms) == 0 {
		return d, err
	}
	return Doctor(ctx, s.explainedAt(), Known{Mappings: ms, Proxies: !s.Engine.NoProxies, Probes: probes})
}
