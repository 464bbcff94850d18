// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/internal/daemon"
)

func newDoctor(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "doctor",
		SuggestFor: []string{"check", "diagnose", "health"},
		Short:      "Say what is wrong with the published ports and the host",
		Long: "Explain every published port, from a typical client of each uplink and from this host,\n" +
			"and look at the host's own state: forwarding, connection tracking, rules of other tables\n" +
			"that take or drop packets, programs that hold published ports, backends that do not\n" +
			"answer. Each thing that is wrong is one line, whatever it stops, with what would correct\n" +
			"it; the worst come first. Nothing is changed; backends are asked whether they are there.\n\n" +
			"Exit status: 0 nothing is wrong; 1 something is; 5 nothing could be read. Without\n" +
			"privilege, the daemon is asked if one runs.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := g.doctor(cmd.Context())
			if err != nil {
				return err
			}
			if err := printAnswer(g, cmd, d, api.DiagnosisOf, report.WriteDiagnosis); err != nil {
				return err
			}
			if len(d.Findings) > 0 {
				return shownError(exitFailed)
			}
			return nil
		},
	}
	return offer(cmd, toDaemon+forJSON)
}

// doctorTime bounds how long the daemon may look.
const doctorTime = 3 * readTimeout

// doctor looks by itself, in the namespace that the command is for. Only what it may not do it asks of
// the daemon. It starts none.
func (g *global) doctor(ctx context.Context) (d report.Diagnosis, err error) {
	if err := engine.ValidateTableName(g.table); err != nil {
		return d, err
	}
	inode, err := g.namespaceInode()
	if err != nil {
		return d, err
	}
	at := daemon.ExplainOptions{Table: g.table, NetNS: g.namespacePath()}
	var client *api.Client
	var known daemon.Known
	if !g.direct {
		if g.socket != "" {
			if at, client, err = g.optionsOfDaemon(ctx, at, inode); err != nil {
				return d, err
			}
		}
		if client == nil {
			if err := g.knownByDaemon(ctx, &at, &known); err != nil {
				return d, err
			}
		}
	}
	if client == nil {
		d, err = daemon.Examine(ctx, at, known)
		if g.direct || !errors.Is(err, fs.ErrPermission) {
			return d, err
		}
		looking, cancel := context.WithTimeout(ctx, readTimeout)
		defer cancel()
		var lookErr error
		switch client, _, lookErr = g.locate(looking); {
		case errors.Is(lookErr, fs.ErrPermission):
			return d, lookErr
		case lookErr != nil:
			return d, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, doctorTime)
	defer cancel()
	return client.Doctor(ctx)
}

// knownByDaemon asks the daemon what it knows. It is no error if none answers.
func (g *global) knownByDaemon(ctx context.Context, at *daemon.ExplainOptions, known *daemon.Known) error {
	looking, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	client, free, err := g.locate(looking)
	var status api.Status
	if err == nil {
		status, err = client.Status(looking)
	}
	var bad usageError
	switch {
	case errors.Is(err, api.ErrNoServer):
		known.Socket = free
		return nil
	case errors.As(err, &bad):
		return err
	case err != nil:
		if ctx.Err() != nil {
			return ctx.Err()
		}
		known.Findings = append(known.Findings, report.Finding{
			Kind: report.KindDaemon, Thing: "the daemon gives no answer", What: err.Error(), Remedy: "look at its log, or end it and start it anew",
		})
		return nil
	}
	at.PID, known.Proxies, known.Warnings = status.PID, true, status.Warnings
	for _, m := range status.MissingFeatures {
		known.Missing = append(known.Missing, engine.MissingFeature{Name: m.Name, Fallback: m.Fallback})
	}
	return nil
}
