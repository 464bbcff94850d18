// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"cmp"
	"context"
	"log/slog"
	"sync"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/logbound"
	"github.com/nftnat/nftnat/nat"
)

// mostLines bounds how many lines the log has for one change. A change of more mappings has a
// last line that counts them.
const mostLines = 100

// changeLog logs and counts changes of mappings, endpoints and networks. Its methods may be called
// at the same time.
type changeLog struct {
	log *slog.Logger
	// leases are the lines on leases of a gateway, which anybody in its LAN may cause. All others are
	// operators' own doing, and are never left out.
	leases *logbound.Lines

	mu sync.Mutex
	// made and refused count changes that clients asked for.
	made    map[api.Operation]int
	refused map[refusal]int
}

// refusal is why a change was not made.
type refusal struct {
	operation api.Operation
	code      api.Code
}

func newChangeLog(log *slog.Logger) *changeLog {
	return &changeLog{
		log: log, leases: logbound.New(log, "more leases were published, unpublished or have expired"), made: map[api.Operation]int{}, refused: map[refusal]int{},
	}
}

// outcome is api.Options.Changed.
func (l *changeLog) outcome(o api.Outcome) {
	if o.Unchanged {
		return
	}
	l.mu.Lock()
	if o.Err == nil {
		l.made[o.Operation]++
	} else {
		l.refused[refusal{o.Operation, o.Code}]++
	}
	l.mu.Unlock()
	log := l.log.With(addText([]any{"uid", o.UID, "pid", o.PID}, "name", o.Name)...)
	if o.Err != nil {
		log.Debug("refused", "operation", o.Operation, "reason", o.Code, "error", o.Err)
		return
	}
	if o.Agent == api.GatewayAgent {
		l.logLeases(log, o)
		return
	}
	switch o.Operation {
	case api.OpPublish:
		logMappings(log, "published", o.Mappings, true)
	case api.OpReplace:
		logMappings(log, "replaced", o.Mappings, true)
	case api.OpUnpublish:
		logMappings(log, "unpublished", o.Mappings, true)
	case api.OpApply:
		logChanges(log, o.Changes)
	case api.OpAttach:
		log.Info("attached", "address", o.Address)
		logMappings(log, "published", o.Mappings, false)
	case api.OpDetach:
		logMappings(log, "unpublished", o.Mappings, false)
		log.Info("detached")
	case api.OpCreateNetwork:
		log.Info("created network", "prefix", o.Address)
	case api.OpRemoveNetwork:
		log.Info("removed network")
	}
}

// event logs an expiry, which no client asked for. The engine logs what it does to follow the
// host.
func (l *changeLog) event(ev nat.Event) {
	if ev.Kind != nat.EventExpired {
		return
	}
	var others []nat.Mapping
	for _, m := range ev.Mappings {
		if api.IsLease(m.Name) {
			l.logLease(l.log, "expired", m)
		} else {
			others = append(others, m)
		}
	}
	logMappings(l.log, "expired", others, true)
}

// logLeases logs what a gateway has changed. That a client still wants what it has is no news.
func (l *changeLog) logLeases(log *slog.Logger, o api.Outcome) {
	what := map[api.Operation]string{api.OpPublish: "published", api.OpReplace: "replaced", api.OpUnpublish: "unpublished"}[o.Operation]
	for _, m := range o.Mappings {
		if o.Renewed {
			logLine(log, slog.LevelDebug, "renewed", m)
		} else {
			l.logLease(log, what, m)
		}
	}
}

func (l *changeLog) logLease(log *slog.Logger, what string, m nat.Mapping) {
	logLine(log, l.leases.Level(), what, m)
}

func logLine(log *slog.Logger, level slog.Level, what string, m nat.Mapping) {
	if log.Enabled(context.Background(), level) {
		log.Log(context.Background(), level, what, "name", m.Name, "mapping", m.String())
	}
}

// logMappings logs a line for each mapping, a range as one. Names are left out if the log has
// that of an endpoint.
func logMappings(log *slog.Logger, what string, ms []nat.Mapping, named bool) {
	logLines(log, what, len(ms), func(i int) (attrs []any) {
		if named {
			attrs = addText(attrs, "name", ms[i].Name)
		}
		return append(attrs, "mapping", ms[i].String())
	})
}

// logChanges logs a line for each change that was applied.
func logChanges(log *slog.Logger, cs []nat.Change) {
	logLines(log, "applied", len(cs), func(i int) []any {
		c := cs[i]
		attrs := addText(nil, "name", cmp.Or(c.New.Name, c.Old.Name))
		if c.Old.Proto != 0 {
			attrs = append(attrs, "old", c.Old.String())
		}
		if c.New.Proto != 0 {
			attrs = append(attrs, "new", c.New.String())
		}
		return addText(addText(attrs, "was", c.Before), "is", c.After)
	})
}

// addText adds an attribute unless its text is empty.
func addText(attrs []any, key, text string) []any {
	if text == "" {
		return attrs
	}
	return append(attrs, key, text)
}

// logLines logs n lines, or if there are too many, how many.
func logLines(log *slog.Logger, what string, n int, attrs func(i int) []any) {
	for i := range min(n, mostLines) {
		log.Info(what, attrs(i)...)
	}
	if n > mostLines {
		log.Info(what, "total", n, "not_listed", n-mostLines)
	}
}

// writeMetrics writes the counts, also those that are 0, so that the first time is an increase.
func (l *changeLog) writeMetrics(e *exposition, n engine.EventCounts) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.family("nftnat_changes_total", counter, "Changes that clients of the API asked for and that were made.")
	for _, operation := range api.Operations() {
		e.sample("nftnat_changes_total", labels("operation", string(operation)), float64(l.made[operation]))
	}
	e.family("nftnat_changes_refused_total", counter, "Changes that clients of the API asked for and that were not made, by the code of the problem.")
	for _, operation := range api.Operations() {
		for _, code := range api.Codes() {
			e.sample("nftnat_changes_refused_total", labels("operation", string(operation), "reason", string(code)),
				float64(l.refused[refusal{operation, code}]))
		}
	}
	e.family("nftnat_mapping_events_total", counter, "Ports that were published, unpublished, or whose time was over.")
	e.sample("nftnat_mapping_events_total", `event="published"`, float64(n.Published))
	e.sample("nftnat_mapping_events_total", `event="unpublished"`, float64(n.Unpublished))
	e.sample("nftnat_mapping_events_total", `event="expired"`, float64(n.Expired))
}
