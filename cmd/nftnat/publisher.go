// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/nat"
)

// publisher is what the verbs work with: a daemon, or an engine of this process.
type publisher interface {
	Publish(ctx context.Context, ms ...nat.Mapping) ([]nat.Mapping, error)
	Retarget(ctx context.Context, ms ...nat.Mapping) ([]nat.Mapping, error)
	RetargetAndKill(ctx context.Context, ms ...nat.Mapping) ([]nat.Mapping, error)
	Remove(ctx context.Context, r engine.Removal) ([]nat.Mapping, error)
	Mappings(ctx context.Context) ([]nat.Mapping, error)
	CreateNetwork(ctx context.Context, n nat.Network) (nat.Network, error)
	RemoveNetwork(ctx context.Context, name string) error
	Attach(ctx context.Context, a nat.EndpointSpec) (api.Endpoint, error)
	Detach(ctx context.Context, name string) ([]nat.Mapping, error)
	Endpoint(ctx context.Context, name string) (api.Endpoint, error)
	Endpoints(ctx context.Context) ([]api.Endpoint, error)
	Inspect(ctx context.Context, name string) (api.Inspection, error)
	State(ctx context.Context) (nat.State, error)
	ApplyState(ctx context.Context, s nat.State) ([]nat.Change, error)
	DiffState(ctx context.Context, s nat.State) ([]nat.Change, error)
	Progress(ctx context.Context) (api.Progress, error)
}

// direct is an engine of this process. It does not wait for anything that a context
// could cut short.
type direct struct {
	*engine.Engine
	progress *atomic.Pointer[engine.Progress]
}

func (d direct) Publish(_ context.Context, ms ...nat.Mapping) ([]nat.Mapping, error) {
	return d.Engine.Publish(ms...)
}

func (d direct) Retarget(_ context.Context, ms ...nat.Mapping) ([]nat.Mapping, error) {
	return d.Engine.Retarget(ms...)
}

func (d direct) RetargetAndKill(_ context.Context, ms ...nat.Mapping) ([]nat.Mapping, error) {
	return d.Engine.RetargetAndKill(ms...)
}

func (d direct) Remove(_ context.Context, r engine.Removal) ([]nat.Mapping, error) {
	return d.Engine.Remove(r)
}

func (d direct) Mappings(context.Context) ([]nat.Mapping, error) {
	return slices.Collect(d.Engine.Mappings()), nil
}

func (d direct) CreateNetwork(_ context.Context, n nat.Network) (nat.Network, error) {
	return d.Engine.CreateNetwork(n)
}

func (d direct) RemoveNetwork(_ context.Context, name string) error {
	return d.Engine.RemoveNetwork(name)
}

func (d direct) Attach(_ context.Context, a nat.EndpointSpec) (api.Endpoint, error) {
	return api.Of(d.Engine).Reporting(nil).Attach(a)
}

func (d direct) Detach(_ context.Context, name string) ([]nat.Mapping, error) {
	return d.Engine.Detach(name)
}

func (d direct) Endpoint(_ context.Context, name string) (api.Endpoint, error) {
	return api.Of(d.Engine).Endpoint(name)
}

func (d direct) Endpoints(context.Context) ([]api.Endpoint, error) {
	s, err := d.Engine.State()
	return api.EndpointsOf(s), err
}

func (d direct) Inspect(ctx context.Context, name string) (api.Inspection, error) {
	ep, err := d.Endpoint(ctx, name)
	if err != nil {
		return api.Inspection{}, err
	}
	return api.Inspect(ep), nil
}

func (d direct) State(context.Context) (nat.State, error) { return d.Engine.State() }

func (d direct) ApplyState(_ context.Context, s nat.State) ([]nat.Change, error) {
	return d.Engine.ApplyState(s)
}

func (d direct) DiffState(_ context.Context, s nat.State) ([]nat.Change, error) {
	return d.Engine.DiffState(s)
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
	return g.withEngine(a == reading, func(p engine.Progress) { progress.Store(&p) },
		func(e *engine.Engine) error { return f(direct{e, &progress}) })
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
func (g *global) withEngine(reader bool, progress func(engine.Progress), f func(*engine.Engine) error) (err error) {
	opts, err := g.engineOptions()
	if err != nil {
		return err
	}
	opts.ReadOnly, opts.NoProxies, opts.LockWait, opts.Progress = reader, true, lockWait, progress
	opts.AsFound = true // whose the table is, is for daemons to say
	e, err := engine.Open(opts)
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
