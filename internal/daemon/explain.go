// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/explain"
	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/nat"
)

// ExplainOptions say where a packet is explained.
type ExplainOptions struct {
	// Table is the name of the table, and NetNS the path of the network namespace. Empty: that of
	// the process.
	Table, NetNS string
	// PID is the process that has the proxies. Zero: it is not known.
	PID int
	// LegacyLists are as in explain.Options.
	LegacyLists []*os.File
}

// Explain explains what becomes of a packet. It changes nothing.
func Explain(ctx context.Context, at ExplainOptions, q report.Query) (r report.Report, err error) {
	finder, err := engine.OpenFinder(engine.FinderOptions{Table: at.Table, NetNS: at.NetNS})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, finder.Close()) }()
	e, err := explain.New(explain.Options{Table: at.Table, NetNS: at.NetNS, PID: at.PID, LegacyLists: at.LegacyLists, Mappings: finder})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	return e.Explain(ctx, q)
}

// Warn says what is certainly wrong with mappings that have just been published, within the time of
// the context.
func Warn(ctx context.Context, at ExplainOptions, ms []nat.Mapping) (found []report.Finding, err error) {
	within := time.Minute
	if deadline, ok := ctx.Deadline(); ok {
		within = time.Until(deadline)
	}
	finder, err := engine.OpenFinder(engine.FinderOptions{Table: at.Table, NetNS: at.NetNS})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, finder.Close()) }()
	e, err := explain.New(explain.Options{Table: at.Table, NetNS: at.NetNS, PID: at.PID, LegacyLists: at.LegacyLists, Mappings: finder})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	return e.Warn(ctx, within, ms)
}

// explainer is what answers GET /v1/explain. Nil: a process that is outside of its engine's
// namespace cannot go there for it once it is confined.
func (s *server) explainer() func(context.Context, report.Query) (report.Report, error) {
	if s.outside {
		return nil
	}
	return func(ctx context.Context, q report.Query) (report.Report, error) {
		return Explain(ctx, s.explainedAt(), q)
	}
}

// explainedAt is where the daemon is.
func (s *server) explainedAt() ExplainOptions {
	return ExplainOptions{Table: s.Engine.Table, PID: os.Getpid(), LegacyLists: s.legacyLists}
}
