// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package logbound

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Pause is between two lines.
const Pause = time.Second

// Lines are lines of one kind. Its methods may be called at the same time.
type Lines struct {
	log  *slog.Logger
	what string

	mu      sync.Mutex
	last    time.Time     // when a line was written; zero: none was
	left    int           // how many were not since then
	waiting chan struct{} // has room for one: some were left out
}

// New returns lines, and what the line says that counts those left out.
func New(log *slog.Logger, what string) *Lines {
	return &Lines{log: log, what: what, waiting: make(chan struct{}, 1)}
}

// Level returns at which level to log a line: at LevelInfo, or, and then it is counted, at LevelDebug.
func (l *Lines) Level() slog.Level {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); l.left == 0 && (l.last.IsZero() || now.Sub(l.last) >= Pause) {
		l.last = now
		return slog.LevelInfo
	}
	l.left++
	select {
	case l.waiting <- struct{}{}:
	default:
	}
	return slog.LevelDebug
}

// Run says how many lines were left out, when the next one may be written and at the end, until ctx is done.
func (l *Lines) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			l.count()
			return
		case <-l.waiting:
		}
		l.mu.Lock()
		pause := Pause - time.Since(l.last)
		l.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		l.count()
	}
}

// count says how many lines were left out, if any were.
func (l *Lines) count() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left == 0 {
		return
	}
	l.log.Info(l.what, "not_listed", l.left)
	l.left, l.last = 0, time.Now()
}
