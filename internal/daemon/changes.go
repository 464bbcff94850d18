// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"log/slog"
	"sync"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/nat"
)

// mostLines bounds how many lines the log has of one change. One that is of more mappings
// has a last line that counts them.
const mostLines = 100

// changeLog logs and counts what happens to what is published. Its methods may be called
// at the same time.
type changeLog struct {
	log *slog.Logger

	mu sync.Mutex
	// made and refused count changes that clients asked for, and happened ports by what
	// happened to them.
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
		log: log, made: map[api.Operation]int{}, refused: map[refusal]int{},
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
	log := l.log.With("uid", o.UID, "pid", o.PID)
	if o.Name != "" {
		log = log.With("name", o.Name)
	}
	if o.Err != nil {
		log.Debug("refused", "operation", o.Operation, "reason", o.Code, "error", o.Err)
		return
	}
	switch o.Operation {
	case api.OpPublish:
		logMappings(log, "published", o.Mappings)
	case api.OpReplace:
		logMappings(log, "replaced", o.Mappings)
	case api.OpUnpublish:
		logMappings(log, "unpublished", o.Mappings)
	case api.OpApply:
		logChanges(log, o.Changes)
	case api.OpAttach:
		log.Info("attached", "address", o.Address)
		logPorts(log, "published", o.Mappings)
	case api.OpDetach:
		logPorts(log, "unpublished", o.Mappings)
		log.Info("detached")
	case api.OpCreateNetwork:
		log.Info("created network", "prefix", o.Address)
	case api.OpRemoveNetwork:
		log.Info("removed network")
	}
}

// event logs an event that no client asked for.
func (l *changeLog) event(ev nat.Event) {
	if ev.Kind == nat.EventExpired {
		logMappings(l.log, "expired", ev.Mappings)
	}
}

// logMappings logs a line for each mapping, ranges as one, with its name.
func logMappings(log *slog.Logger, what string, ms []nat.Mapping) {
	logLines(log, what, len(ms), func(i int) []any {
		if ms[i].Name == "" {
			return []any{"mapping", ms[i].String()}
		}
		return []any{"name", ms[i].Name, "mapping", ms[i].String()}
	})
}

// logPorts is logMappings of the ports of an endpoint, whose name log has already.
func logPorts(log *slog.Logger, what string, ms []nat.Mapping) {
	logLines(log, what, len(ms), func(i int) []any { return []any{"mapping", ms[i].String()} })
}

// logChanges logs a line for each change that was applied.
func logChanges(log *slog.Logger, cs []nat.Change) {
	logLines(log, "applied", len(cs), func(i int) []any {
		var attrs []any
		c := cs[i]
		if name := nameOf(c); name != "" {
			attrs = append(attrs, "name", name)
		}
		if c.Old.Proto != 0 {
			attrs = append(attrs, "old", c.Old.String())
		}
		if c.New.Proto != 0 {
			attrs = append(attrs, "new", c.New.String())
		}
		if c.Before != "" {
			attrs = append(attrs, "was", c.Before)
		}
		if c.After != "" {
			attrs = append(attrs, "is", c.After)
		}
		return attrs
	})
}

func nameOf(c nat.Change) string {
	if c.New.Name != "" {
		return c.New.Name
	}
	return c.Old.Name
}

// logLines logs a line for each of n things, and where there are too many, how many.
func logLines(log *slog.Logger, what string, n int, attrs func(i int) []any) {
	for i := range min(n, mostLines) {
		log.Info(what, attrs(i)...)
	}
	if n > mostLines {
		log.Info(what, "total", n, "not_listed", n-mostLines)
	}
}

// tell tells the counts as metrics, those of what has not happened yet as 0, so that the
// first time is an increase.
func (l *changeLog) tell(e *exposition, n engine.EventCounts) {
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
