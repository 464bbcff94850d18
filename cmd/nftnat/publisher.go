// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"slices"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
)

// publisher is what the verbs work with: a daemon, or an engine of this process.
type publisher interface {
	Publish(ctx context.Context, ms ...engine.Mapping) ([]engine.Mapping, error)
	Retarget(ctx context.Context, ms ...engine.Mapping) ([]engine.Mapping, error)
	Unpublish(ctx context.Context, m engine.Mapping) ([]engine.Mapping, error)
	Kill(ctx context.Context, m engine.Mapping) ([]engine.Mapping, error)
	Mappings(ctx context.Context) ([]engine.Mapping, error)
	Apply(ctx context.Context, ms ...engine.Mapping) ([]engine.Change, error)
	Diff(ctx context.Context, ms ...engine.Mapping) ([]engine.Change, error)
}

// direct is an engine of this process. It does not wait for anything that a context
// could cut short.
type direct struct{ *engine.Engine }

func (d direct) Publish(_ context.Context, ms ...engine.Mapping) ([]engine.Mapping, error) {
	return d.Engine.Publish(ms...)
}

func (d direct) Retarget(_ context.Context, ms ...engine.Mapping) ([]engine.Mapping, error) {
	return d.Engine.Retarget(ms...)
}

func (d direct) Unpublish(_ context.Context, m engine.Mapping) ([]engine.Mapping, error) {
	return d.Engine.Unpublish(m)
}

func (d direct) Kill(_ context.Context, m engine.Mapping) ([]engine.Mapping, error) {
	return d.Engine.Kill(m)
}

func (d direct) Mappings(context.Context) ([]engine.Mapping, error) {
	return slices.Collect(d.Engine.Mappings()), nil
}

func (d direct) Apply(_ context.Context, ms ...engine.Mapping) ([]engine.Change, error) {
	return d.Engine.Apply(ms...)
}

func (d direct) Diff(_ context.Context, ms ...engine.Mapping) ([]engine.Change, error) {
	return d.Engine.Diff(ms...)
}

// access is what a verb wants of the publisher.
type access int

const (
	// reading changes nothing: where no daemon runs, the kernel's table is read.
	reading access = iota
	// writing changes something: where no daemon runs, one is started, for what is
	// published has to be served on localhost too.
	writing
)

// with hands a publisher to f.
func (g *global) with(ctx context.Context, a access, f func(publisher) error) error {
	if !g.direct {
		client, err := g.daemon(ctx, a)
		if err == nil {
			return f(client)
		}
		if a == writing || !errors.Is(err, api.ErrNoServer) {
			return err
		}
	}
	return g.withEngine(a == reading, func(e *engine.Engine) error { return f(direct{e}) })
}

// withEngine opens an engine in this process, hands it to f and closes it. A reader
// takes no lock and changes nothing.
func (g *global) withEngine(reader bool, f func(*engine.Engine) error) (err error) {
	opts, err := g.engineOptions()
	if err != nil {
		return err
	}
	opts.ReadOnly, opts.NoProxies, opts.LockWait = reader, true, lockWait
	e, err := engine.Open(opts)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := e.Close(); err == nil && !errors.Is(closeErr, engine.ErrClosed) {
			err = closeErr
		}
	}()
	return f(e)
}
