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
	"time"

	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/nat"
)

// Engine has the methods of an engine that a server calls: engine.Values has them.
type Engine interface {
	Publish(ctx context.Context, how nat.PublishOptions, ms ...nat.Mapping) ([]nat.Mapping, error)
	Remove(ctx context.Context, r nat.Removal) ([]nat.Mapping, error)
	Apply(ctx context.Context, ms ...nat.Mapping) ([]nat.Change, error)
	Exchange(ctx context.Context, x nat.Exchange) ([]nat.Change, error)
	Diff(ctx context.Context, ms ...nat.Mapping) ([]nat.Change, error)
	Mappings(ctx context.Context) ([]nat.Mapping, error)
	Connections(ctx context.Context) ([]nat.Connections, error)

	CreateNetwork(ctx context.Context, n nat.Network) (nat.Network, error)
	RemoveNetwork(ctx context.Context, name string) error
	Network(ctx context.Context, name string) (nat.Network, error)
	Attach(ctx context.Context, a nat.EndpointSpec) (nat.Endpoint, error)
	Detach(ctx context.Context, name string) ([]nat.Mapping, error)
	Endpoint(ctx context.Context, name string) (nat.Endpoint, error)

	ApplyState(ctx context.Context, s nat.State) ([]nat.Change, error)
	DiffState(ctx context.Context, s nat.State) ([]nat.Change, error)
	State(ctx context.Context) (nat.State, error)
}

// Options say what a server serves.
type Options struct {
	// Engine is required, and is not closed by the server.
	Engine Engine
	// Daemon returns which process serves, for GET /v1/daemon, and waits for nothing. Nil: the route
	// answers 404.
	Daemon func() Daemon
	// Status returns the process's status, for GET /v1/status. It may be called from
	// several goroutines. Nil: the route answers 404.
	Status func(context.Context) (Status, error)
	// Explain explains what becomes of a packet, for GET /v1/explain, and must return soon. Nil:
	// the route answers 404.
	Explain func(context.Context, report.Query) (report.Report, error)
	// Doctor looks for what is wrong on the host, for GET /v1/doctor, and ends when its context is
	// done. It is not called by two at a time. Nil: the route answers 404.
	Doctor func(context.Context) (report.Diagnosis, error)
	// Progress returns the progress of the change that the engine is making, for GET
	// /v1/progress; unlike Status, it must not wait for the change. Nil: the route answers 404.
	Progress func() Progress
	// Events returns the events from now on until the context is done, for GET /v1/events,
	// as engine.Engine.Events does. Nil: the route answers 404.
	Events func(context.Context) iter.Seq[nat.Event]
	// Handovers gets the connections on which root or the server's own user asks for a handover
	// by POST /v1/handover. The receiver speaks the protocol of package handover and closes
	// them. While the channel is full, the next client is told that the server is busy. Nil:
	// the route answers 404.
	Handovers chan<- *net.UnixConn
	// Sessions publishes the mappings of a session, for POST /v1/sessions, and unpublishes them
	// when the client ends it. It returns what was published. Nil: the route answers 404.
	Sessions func(ctx context.Context, s Session) ([]nat.Mapping, error)
	// Health returns why the server cannot do its work, or nil, for GET /healthz; it must
	// return soon after its context is done. Nil: the route answers 404.
	Health func(context.Context) error
	// Changed is called for each change that a client asked for, also if it was refused, before
	// the client gets its answer. Several requests may call it at once, and it must not modify
	// its argument. Nil: it is not called.
	Changed func(Outcome)
	// Metrics answers GET /metrics. Nil: the route answers 404.
	Metrics http.Handler
	// Decode reads the YAML form of PUT /v1/mappings and PUT /v1/state. Its errors are
	// the client's fault: 422 if they are nat.ErrInvalid, else 400. Nil: only JSON is
	// accepted.
	Decode func(io.Reader) (nat.State, error)
	// Encode writes the YAML form of GET /v1/state. Nil: the answer is always JSON.
	Encode func(io.Writer, nat.State) error
	// Log gets what no client is told. Nil: nothing is logged.
	Log *slog.Logger
}

// limits are what a server allows its clients. Tests have smaller ones.
type limits struct {
	conns    int // at once; further clients wait in the kernel's queue
	streams  int // of events at once, so that half of the connections stay for others
	searches int // packets being explained, and connections being counted, at once
	applies  int // bodies of PUT being read or applied at once, for the memory they take

	header  int // bytes
	body    int64
	apply   int64 // bytes of a body of PUT: 60,000 mappings are some 8 MiB of JSON
	discard int64 // bytes of a refused body that are read and thrown away

	headerTime time.Duration // to send a header, from its first byte or from the connection
	bodyTime   time.Duration // to send a body, from the end of its header
	writeTime  time.Duration // to read an answer
	lastTime   time.Duration // to read the event that is being written at shutdown
	idleTime   time.Duration // between two requests
	drainTime  time.Duration // for what is under way at shutdown
	departure  time.Duration // to send a request, when another process is to serve
	leaveTime  time.Duration // for what is under way then: no client waits longer for an answer
	healthTime time.Duration // of the engine to answer, before it counts as not healthy
}

func defaultLimits() limits {
	return limits{
		conns: 256, streams: 128, searches: 4, applies: 4,
		header: 8 << 10, body: 1 << 20, apply: 16 << 20, discard: 64 << 20,
		headerTime: 5 * time.Second, bodyTime: 10 * time.Second, writeTime: 30 * time.Second,
		lastTime: time.Second, idleTime: time.Minute, drainTime: 5 * time.Second,
		departure: time.Second, leaveTime: callTimeout, healthTime: 5 * time.Second,
	}
}
