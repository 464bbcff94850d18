// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nftnat/nftnat/engine/internal/table"
	"github.com/nftnat/nftnat/nat"
)

// Report is what a call did beyond what it returns. After an error it is empty.
type Report struct {
	// Unchanged is whether all that was asked for was there already, so that nothing
	// was done.
	Unchanged bool
	// Notes are what Options.Log was told meanwhile, from [slog.LevelInfo] on, a line
	// each: what was changed on the host beside the table, and what could not be done
	// and is no error. "turned on forwarding: sysctl=net/ipv4/ip_forward was=0 is=1".
	Notes []string
}

// Reporter has the methods of an engine that change something. They are those of
// [Engine], and fill a Report as well.
type Reporter struct {
	e *Engine
	r *Report
}

// Reporting returns methods that fill r, one call at a time. Nil: nothing is reported.
func (e *Engine) Reporting(r *Report) Reporter { return Reporter{e, r} }

// Publish is [Engine.Publish].
func (r Reporter) Publish(ms ...nat.Mapping) (done []nat.Mapping, err error) {
	return reported(r, func() ([]nat.Mapping, error) { return r.e.publish(ms, publishing{}) })
}

// Retarget is [Engine.Retarget].
func (r Reporter) Retarget(ms ...nat.Mapping) ([]nat.Mapping, error) {
	return reported(r, func() ([]nat.Mapping, error) { return r.e.publish(ms, publishing{retarget: true}) })
}

// RetargetAndKill is [Engine.RetargetAndKill].
func (r Reporter) RetargetAndKill(ms ...nat.Mapping) ([]nat.Mapping, error) {
	return reported(r, func() ([]nat.Mapping, error) { return r.e.publish(ms, publishing{retarget: true, kill: true}) })
}

// Remove is [Engine.Remove].
func (r Reporter) Remove(what Removal) ([]nat.Mapping, error) {
	return reported(r, func() ([]nat.Mapping, error) { return r.e.removeAll(what) })
}

// Apply is [Engine.Apply].
func (r Reporter) Apply(ms ...nat.Mapping) ([]nat.Change, error) {
	return reported(r, func() ([]nat.Change, error) { return r.e.apply(ms) })
}

// ApplyState is [Engine.ApplyState].
func (r Reporter) ApplyState(s nat.State) ([]nat.Change, error) {
	return reported(r, func() ([]nat.Change, error) { return r.e.applyState(s) })
}

// CreateNetwork is [Engine.CreateNetwork].
func (r Reporter) CreateNetwork(n nat.Network) (nat.Network, error) {
	return reported(r, func() (nat.Network, error) { return r.e.createNetwork(n) })
}

// RemoveNetwork is [Engine.RemoveNetwork].
func (r Reporter) RemoveNetwork(name string) error {
	_, err := reported(r, func() (struct{}, error) { return struct{}{}, r.e.removeNetwork(name) })
	return err
}

// Attach is [Engine.Attach].
func (r Reporter) Attach(a nat.EndpointSpec) (*Endpoint, error) {
	return reported(r, func() (*Endpoint, error) { return r.e.attach(a) })
}

// Detach is [Engine.Detach].
func (r Reporter) Detach(name string) ([]nat.Mapping, error) {
	return reported(r, func() ([]nat.Mapping, error) { return r.e.detach(name) })
}

// reported calls f with the engine locked and writable, while what it does is reported.
func reported[T any](r Reporter, f func() (T, error)) (result T, err error) {
	e := r.e
	e.mu.Lock()
	defer e.mu.Unlock()
	report := r.r
	if report == nil {
		report = &Report{}
	}
	*report = Report{}
	e.noted.Store(report)
	defer e.noted.Store(nil)
	if err = e.writable(); err == nil {
		result, err = f()
	}
	if err != nil {
		*report = Report{}
	}
	return result, err
}

// unchanged reports that what was asked for was there already, or that it was not.
func (e *Engine) unchanged(is bool) {
	if r := e.noted.Load(); r != nil {
		r.Unchanged = is
	}
}

// confirm returns table.ErrConflict if others may have changed the table since it was read, for
// a call that changes nothing itself and so would not notice.
func (e *Engine) confirm() error {
	if e.table.Current() {
		return nil
	}
	return table.ErrConflict
}

// noteHandler has what an engine logs reported to the call that is under way. Only what
// is logged with the engine locked goes through it.
type noteHandler struct {
	slog.Handler
	report *atomic.Pointer[Report]
}

func (h noteHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelInfo && h.report.Load() != nil || h.Handler.Enabled(ctx, l)
}

func (h noteHandler) Handle(ctx context.Context, rec slog.Record) error {
	if r := h.report.Load(); r != nil && rec.Level >= slog.LevelInfo {
		r.Notes = append(r.Notes, noteText(rec))
	}
	if !h.Handler.Enabled(ctx, rec.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, rec)
}

// noteText is a record as a line: the message, a colon, and what belongs to it as
// [slog.TextHandler] writes it.
func noteText(rec slog.Record) string {
	var b strings.Builder
	message := rec.Message
	rec.Time, rec.Message = time.Time{}, "" // which then is left out
	h := slog.NewTextHandler(&b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.LevelKey || a.Key == slog.MessageKey {
			return slog.Attr{}
		}
		return a
	}})
	if err := h.Handle(context.Background(), rec); err != nil || b.Len() <= len("\n") {
		return message // a Builder takes everything
	}
	return message + ": " + strings.TrimSuffix(b.String(), "\n")
}
