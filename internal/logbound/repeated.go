// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package logbound

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// mostKept bounds how many lines are known again.
const mostKept = 32

// Repeated returns a handler that passes records on, but leaves out those that are the same as one that was
// passed less than Pause before. The next one has how many they were.
func Repeated(h slog.Handler) slog.Handler { return &repeated{Handler: h, kept: &kept{}} }

type repeated struct {
	slog.Handler
	*kept
}

// kept are the lines that were passed last, the newest at the end.
type kept struct {
	mu    sync.Mutex
	lines []passed
}

type passed struct {
	text string
	at   time.Time
	left int
}

func (h *repeated) Handle(ctx context.Context, r slog.Record) error {
	left, ok := h.pass(text(r), time.Now())
	if !ok {
		return nil
	}
	if left != 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("not_listed", left))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs and WithGroup make handlers of their own, that know no line yet.
func (h *repeated) WithAttrs(as []slog.Attr) slog.Handler { return Repeated(h.Handler.WithAttrs(as)) }
func (h *repeated) WithGroup(name string) slog.Handler    { return Repeated(h.Handler.WithGroup(name)) }

func text(r slog.Record) string {
	var b strings.Builder
	b.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		b.WriteString("\x00" + a.String())
		return true
	})
	return b.String()
}

// pass reports whether a line is passed, and how many of its kind were left out since the last one.
func (k *kept) pass(text string, now time.Time) (left int, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if i := slices.IndexFunc(k.lines, func(p passed) bool { return p.text == text }); i >= 0 {
		p := &k.lines[i]
		if now.Sub(p.at) < Pause {
			p.left++
			return 0, false
		}
		left = p.left
		k.lines = slices.Delete(k.lines, i, i+1)
	}
	if len(k.lines) == mostKept {
		k.lines = slices.Delete(k.lines, 0, 1)
	}
	k.lines = append(k.lines, passed{text: text, at: now})
	return left, true
}
