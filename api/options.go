// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/nat"
)

// Engine is what a server asks of an [engine.Engine]; see [Of].
type Engine interface {
	// Reporting returns the methods that change something, which fill r as well.
	Reporting(r *engine.Report) Changer
	Diff(ms ...nat.Mapping) ([]nat.Change, error)
	Mappings() iter.Seq[nat.Mapping]

	Network(name string) (nat.Network, error)
	Endpoint(name string) (Endpoint, error)
	State() (nat.State, error)
	DiffState(s nat.State) ([]nat.Change, error)
}

// Changer is what a server asks of an [engine.Reporter].
type Changer interface {
	Publish(ms ...nat.Mapping) ([]nat.Mapping, error)
	Retarget(ms ...nat.Mapping) ([]nat.Mapping, error)
	RetargetAndKill(ms ...nat.Mapping) ([]nat.Mapping, error)
	Remove(r engine.Removal) ([]nat.Mapping, error)
	Apply(ms ...nat.Mapping) ([]nat.Change, error)
	CreateNetwork(n nat.Network) (nat.Network, error)
	RemoveNetwork(name string) error
	Attach(a nat.EndpointSpec) (Endpoint, error)
	Detach(name string) ([]nat.Mapping, error)
	ApplyState(s nat.State) ([]nat.Change, error)
}

// Of is an engine as a server asks it.
func Of(e *engine.Engine) Engine { return asked{e} }

// asked is an engine that tells of its endpoints as values.
type asked struct{ *engine.Engine }

func (a asked) Reporting(r *engine.Report) Changer { return changer{a.Engine.Reporting(r)} }

// changer is a reporter that tells of its endpoints as values.
type changer struct{ engine.Reporter }

func (c changer) Attach(wanted nat.EndpointSpec) (Endpoint, error) {
	return valueOf(c.Reporter.Attach(wanted))
}

func (a asked) Endpoint(name string) (Endpoint, error) { return valueOf(a.Engine.Endpoint(name)) }

func valueOf(ep *engine.Endpoint, err error) (Endpoint, error) {
	if err != nil {
		return Endpoint{}, err
	}
	return EndpointOf(ep), nil
}

// Options say what a server serves.
type Options struct {
	// Engine publishes. It has to be there, and is not closed by the server.
	Engine Engine
	// Status tells how the process is, for GET /v1/status; it may be called at any
	// time and by several at once. Nil: the route answers 404.
	Status func() (Status, error)
	// Progress tells how far the change is that the engine is making, for GET
	// /v1/progress; unlike Status it has to answer meanwhile. Nil: the route answers 404.
	Progress func() Progress
	// Events is what GET /v1/events streams. Nil: the route answers 404.
	Events *Feed
	// Handovers takes the connections of processes that ask for the server's place, by POST
	// /v1/handover, root's and those of the server's own user. Whoever reads them speaks
	// the rest of it (package handover) and closes them. If one is there that nobody has
	// read, the next is told that the server is busy. Nil: the route answers 404.
	Handovers chan<- *net.UnixConn
	// Health returns why the server cannot do its work, or nil, for GET /healthz; it must
	// return soon after its context is done. Nil: the route answers 404.
	Health func(context.Context) error
	// Changed is told of each change that a client asked for, also if it was refused, before
	// the client has its answer. It may be called by several requests at once, and what it
	// is given must not be changed. Nil: nobody is told.
	Changed func(Outcome)
	// Metrics answers GET /metrics. Nil: the route answers 404.
	Metrics http.Handler
	// Decode reads the YAML form of PUT /v1/mappings and PUT /v1/state. Its errors are
	// the client's fault: 422 if they are nat.ErrInvalid, else 400. Nil: only JSON is
	// taken.
	Decode func(io.Reader) (nat.State, error)
	// Encode writes the YAML form of GET /v1/state. Nil: it is told in JSON only.
	Encode func(io.Writer, nat.State) error
	// Log is told what no client can be. Nil: nobody.
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}
