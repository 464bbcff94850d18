// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/table"
	"github.com/nftnat/nftnat/nat"
)

// unchanged notes in the report whether a call changes nothing.
func (e *core) unchanged(is bool) {
	if r := e.noted.Load(); r != nil {
		r.Unchanged = is
	}
}

// renewed notes in the report that a call changes nothing but ends.
func (e *core) renewed(c *change) {
	r := e.noted.Load()
	if r == nil || c.LenAfter() != len(c.Moved) || len(c.Removed) != 0 || !c.ipamDiff.Empty() {
		return
	}
	r.Renewed = !slices.ContainsFunc(c.Moved, func(m portset.Move) bool { return !m.From.SameButEnd(m.To) })
}

// confirm returns table.ErrConflict if other programs may have changed the table since it
// was loaded. A call that changes nothing would not notice otherwise.
func (e *core) confirm() error {
	if current, err := e.table.Current(); err != nil || current {
		return err
	}
	return table.ErrConflict
}

// noteHandler adds what an engine logs to the report of the call under way. It must only be
// used with the engine locked.
type noteHandler struct {
	slog.Handler
	report *atomic.Pointer[nat.Report]
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

// noteText returns a record as one line: the message, a colon, and the attributes as
// [slog.TextHandler] writes them.
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
