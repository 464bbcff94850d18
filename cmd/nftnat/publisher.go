// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/nat"
)

// publisher is what the verbs work with: a daemon, or an engine of this process.
type publisher interface {
	api.Engine
	Endpoints(ctx context.Context) ([]nat.Endpoint, error)
	Inspect(ctx context.Context, name string) (api.Inspection, error)
	Progress(ctx context.Context) (api.Progress, error)
}

// direct is an engine of this process.
type direct struct {
	engine.Values
	progress *atomic.Pointer[engine.Progress]
}

func (d direct) Inspect(ctx context.Context, name string) (api.Inspection, error) {
	ep, err := d.Endpoint(ctx, name)
	if err != nil {
		return api.Inspection{}, err
	}
	return api.Inspect(ep), nil
}

func (d direct) Progress(context.Context) (api.Progress, error) {
	return progressOf(*d.progress.Load()), nil
}

// access is what a verb wants of the publisher.
type access int

const (
	// reading changes nothing: where no daemon runs, or none answers in time, the kernel's
	// table is read.
	reading access = iota
	// writing changes something: where no daemon runs, one is started, for what is
	// published has to be served on localhost too.
	writing
)

// with hands a publisher to f. A reader, whose daemon does not answer, is called again with
// what the kernel holds: it must not print before it has read.
func (g *global) with(ctx context.Context, a access, f func(publisher) error) error {
	if !g.direct {
		done, err := g.withDaemon(ctx, a, f)
		if done {
			return err
		}
		if !errors.Is(err, api.ErrNoServer) {
			g.logger().Warn("the daemon does not answer: this is what the kernel holds", "error", err)
		}
	}
	var progress atomic.Pointer[engine.Progress]
	progress.Store(&engine.Progress{})
	return g.withEngine(ctx, a == reading, func(p engine.Progress) { progress.Store(&p) },
		func(e *engine.Engine) error { return f(direct{engine.Values{Engine: e}, &progress}) })
}

// withDaemon hands a daemon to f. It is not done if f only reads and the daemon does not answer.
func (g *global) withDaemon(ctx context.Context, a access, f func(publisher) error) (done bool, err error) {
	if a == writing {
		client, err := g.daemon(ctx, a)
		if err != nil {
			return true, err
		}
		return true, f(client)
	}
	r := &reader{deadline: time.Now().Add(readPatience)}
	finding, cancel := context.WithDeadline(ctx, r.deadline)
	defer cancel()
	client, err := g.daemon(finding, a)
	if err != nil {
		return ctx.Err() != nil || !unanswered(err), err
	}
	r.publisher = client
	if err = f(r); r.failed != nil && ctx.Err() == nil {
		return false, r.failed
	}
	return true, err
}

// withEngine opens an engine in this process, hands it to f and closes it. A reader
// takes no lock and changes nothing. How far a change is, progress is told; nil: nobody.
func (g *global) withEngine(ctx context.Context, reader bool, progress func(engine.Progress), f func(*engine.Engine) error) (err error) {
	opts, err := g.engineOptions()
	if err != nil {
		return err
	}
	opts.ReadOnly, opts.NoProxies, opts.LockWait, opts.Progress = reader, true, lockWait, progress
	opts.AsFound = true // whose the table is, is for daemons to say
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
