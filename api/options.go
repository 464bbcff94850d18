// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"io"
	"iter"
	"log/slog"
	"net/http"

	"github.com/nftnat/nftnat/engine"
)

// Engine is what a server asks of an [engine.Engine].
type Engine interface {
	Publish(ms ...engine.Mapping) ([]engine.Mapping, error)
	Retarget(ms ...engine.Mapping) ([]engine.Mapping, error)
	Unpublish(ms ...engine.Mapping) ([]engine.Mapping, error)
	Kill(ms ...engine.Mapping) ([]engine.Mapping, error)
	Apply(ms ...engine.Mapping) ([]engine.Change, error)
	Diff(ms ...engine.Mapping) ([]engine.Change, error)
	Mappings() iter.Seq[engine.Mapping]
}

// Options say what a server serves.
type Options struct {
	// Engine publishes. It has to be there, and is not closed by the server.
	Engine Engine
	// Status tells how the process is, for GET /v1/status; it may be called at any
	// time and by several at once. Nil: the route answers 404.
	Status func() (Status, error)
	// Events is what GET /v1/events streams. Nil: the route answers 404.
	Events *Feed
	// Metrics answers GET /metrics. Nil: the route answers 404.
	Metrics http.Handler
	// Decode reads the YAML form of PUT /v1/mappings. Its errors are the client's
	// fault: 422 if they are engine.ErrInvalid, else 400. Nil: only JSON is taken.
	Decode func(io.Reader) ([]engine.Mapping, error)
	// Log is told what no client can be. Nil: nobody.
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}
