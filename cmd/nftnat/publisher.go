// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/daemon"
	"github.com/nftnat/nftnat/internal/printable"
	"github.com/nftnat/nftnat/nat"
)

// publisher is what commands work with: a daemon, or an engine of this process.
type publisher interface {
	api.Engine
	Endpoints(ctx context.Context) ([]nat.Endpoint, error)
	Progress(ctx context.Context) (api.Progress, error)
	Status(ctx context.Context) (api.Status, error)
}

// direct is an engine of this process.
type direct struct {
	engine.Values
	progress *atomic.Pointer[engine.Progress]
}

func (d direct) Progress(context.Context) (api.Progress, error) {
	return api.Progress(*d.progress.Load()), nil
}

// Status has no PID, as there is no daemon.
func (d direct) Status(ctx context.Context) (api.Status, error) {
	st, err := d.Engine.Status(ctx)
	if err != nil && st.Table == "" {
		return api.Status{}, err
	}
	return daemon.StatusOf(st, err), nil
}

// access is what a command wants of the publisher.
type access int

const (
	// reading changes nothing: if no daemon runs, or none answers in time, the kernel's table
	// is read.
	reading access = iota
	// writing changes something: if no daemon runs, one is started, because localhost has to
	// be served, too.
	writing
)

// readTimeout bounds how long a command that only reads waits for the daemon, in all. The
// kernel knows the same.
const readTimeout = 5 * time.Second

// ask calls f with a publisher. If it only reads, and the daemon gives no answer, it is called
// again with what the kernel holds.
func ask[T any](ctx context.Context, g *global, a access, f func(publisher, context.Context) (T, error)) (answer T, err error) {
	if !g.direct {
		answer, err = askDaemon(ctx, g, a, f)
		switch {
		case a == writing, ctx.Err() != nil, !unanswered(err):
			return answer, err
		case !errors.Is(err, api.ErrNoServer):
			g.logger().Warn("the daemon does not answer: this is what the kernel holds", "error", err)
		}
	}
	var progress atomic.Pointer[engine.Progress]
	progress.Store(&engine.Progress{})
	err = g.withEngine(ctx, a == reading, func(p engine.Progress) { progress.Store(&p) }, func(e *engine.Engine) (err error) {
		answer, err = f(direct{engine.Values{Engine: e}, &progress}, ctx)
		return err
	})
	return answer, err
}

func askDaemon[T any](ctx context.Context, g *global, a access, f func(publisher, context.Context) (T, error)) (answer T, err error) {
	if a == reading {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, readTimeout)
		defer cancel()
	}
	client, err := g.daemon(ctx, a)
	if err != nil {
		return answer, err
	}
	ctx, printNotes := g.withNotes(ctx)
	defer printNotes()
	return f(client, ctx)
}

// withNotes returns a context for a change that a daemon makes, and a function that prints the
// notes on it.
func (g *global) withNotes(ctx context.Context) (_ context.Context, printNotes func()) {
	report := nat.ReportFrom(ctx)
	if report == nil {
		report = &nat.Report{}
		ctx = nat.WithReport(ctx, report)
	}
	return ctx, func() {
		for _, line := range report.Notes {
			if !g.quiet {
				_, _ = fmt.Fprintf(g.stderr, "nftnat: %s\n", printable.Line(line))
			}
		}
	}
}

// unanswered reports whether an error means that the daemon gave no answer, or a part of one: it
// was stopped, has just ended, or is too busy. A change may have been made all the same. Which
// error it is depends on where the answer was cut, so it is any error but the known ones.
func unanswered(err error) bool {
	var (
		refusal *api.Problem
		bad     usageError
	)
	switch {
	case err == nil, errors.As(err, &bad), errors.Is(err, nat.ErrInvalid), errors.Is(err, fs.ErrPermission):
		return false
	case errors.As(err, &refusal):
		return refusal.Code == api.CodeBusy || refusal.Code == api.CodeClosed
	}
	return true
}

// garbagePercent is how much garbage the heap may have before it is collected, in per cent of
// what is in use. With Go's default, 100, a change of 60,000 mappings takes a quarter more memory,
// and as much time.
const garbagePercent = 50

// withEngine opens an engine in this process, calls f with it and closes it. A reader takes no
// lock and changes nothing. Progress, if not nil, is called with that of a change.
func (g *global) withEngine(ctx context.Context, reader bool, progress func(engine.Progress), f func(*engine.Engine) error) error {
	return g.withEngineWithin(ctx, lockWait, reader, progress, f)
}

// withEngineWithin is withEngine that waits so long for the table.
func (g *global) withEngineWithin(
	ctx context.Context, wait time.Duration, reader bool, progress func(engine.Progress), f func(*engine.Engine) error,
) (err error) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	opts, err := g.engineOptions()
	if err != nil {
		return err
	}
	opts.ReadOnly, opts.NoProxies, opts.LockWait, opts.Progress = reader, true, wait, progress
	opts.AsFound = true // daemons say who owns the table
	opts.Changes = g.changes
	e, err := engine.Open(ctx, opts)
	if g.direct && errors.Is(err, nat.ErrOwned) {
		return hintedError{err, "leave out --direct to ask its daemon"}
	}
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := e.Close(); err == nil && !errors.Is(closeErr, nat.ErrClosed) {
			err = closeErr
		}
	}()
	return f(e)
}
