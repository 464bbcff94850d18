// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/internal/daemon"
	"github.com/nftnat/nftnat/internal/netns"
)

func newExplain(g *global) *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:        "explain PROTO FRONTEND",
		SuggestFor: []string{"why", "debug"},
		Short:      "Say why a published port does not answer, or how it does",
		Long: "Say what becomes of a client's first packet to a published port, and of its answer:\n" +
			"the first thing that stops one of them, with what would correct it, or by which path\n" +
			"they pass. It goes through the rules of all tables, routes, interfaces and sockets as\n" +
			"the kernel would. It changes nothing; the backend may be asked whether it is there.\n\n" +
			"PROTO is tcp or udp. FRONTEND is what the client sends to: PORT, ADDR:PORT or\n" +
			"[V6]:PORT. The client is one from elsewhere, by the default route, or the one of\n" +
			"--from: any address, of this host and of the backend too.\n\n" +
			"Exit status: 0 it passes; 1 it is stopped, or may be by what cannot be known; 2 bad\n" +
			"input; 4 it is not published, and what is near is printed; 5 nothing could be read.\n" +
			"Without privilege, the daemon is asked if one runs.",
		Example: "  nftnat explain tcp 8080\n  nftnat explain tcp 8080 --from 192.0.2.2\n" +
			"  nftnat explain udp '[2001:db8::1]:53' --from fe80::1%eth0",
		Args: usage(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("from") && from == "" {
				return usageError{errors.New("--from is empty: it is the address of a client")}
			}
			q, err := report.ParseQuery(args[0], args[1], from)
			if err != nil {
				return err
			}
			r, err := g.explain(cmd.Context(), q)
			if err != nil {
				return err
			}
			if err := printAnswer(g, cmd, r, api.ExplanationOf, report.Write); err != nil {
				return err
			}
			return verdictStatus(r.Verdict)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "the client's `ADDR`: an address, fe80::1%eth0 if it is link-local (default: one from elsewhere)")
	cmd.ValidArgsFunction = g.completeExplained
	completeFlag(cmd, "from", cobra.FixedCompletions([]string{"127.0.0.1", "::1"}, cobra.ShellCompDirectiveNoFileComp))
	return offer(cmd, toDaemon+forJSON)
}

// verdictStatus is the exit status of a verdict, which has been printed.
func verdictStatus(v report.Verdict) error {
	switch v {
	case report.Passes:
		return nil
	case report.NotPublished:
		return shownError(exitNotFound)
	case report.Stopped, report.Uncertain:
	}
	return shownError(exitFailed)
}

// explain explains by itself, in the namespace that the command is for. Only what it may not do it
// asks of the daemon. It starts none.
func (g *global) explain(ctx context.Context, q report.Query) (report.Report, error) {
	if err := engine.ValidateTableName(g.table); err != nil {
		return report.Report{}, err
	}
	inode, err := g.namespaceInode()
	if err != nil {
		return report.Report{}, err
	}
	at, client := daemon.ExplainOptions{Table: g.table, NetNS: g.namespacePath()}, (*api.Client)(nil)
	if g.socket != "" && !g.direct {
		if at, client, err = g.optionsOfDaemon(ctx, at, inode); err != nil {
			return report.Report{}, err
		}
	}
	if client == nil {
		r, err := daemon.Explain(ctx, at, q)
		if g.direct || !errors.Is(err, fs.ErrPermission) {
			return r, err
		}
		ctx, cancel := context.WithTimeout(ctx, readTimeout)
		defer cancel()
		var lookErr error
		switch client, _, lookErr = g.locate(ctx); {
		case errors.Is(lookErr, fs.ErrPermission):
			return r, lookErr
		case lookErr != nil:
			return r, err
		}
	}
	return client.Explain(ctx, q)
}

// explainTimeout bounds how long a daemon is asked for its namespace: one that has been stopped is a fault
// that is to be named, and not waited for.
const explainTimeout = time.Second

// optionsOfDaemon returns options with the table and namespace of the daemon whose socket was given, as other
// commands work there too. If this process cannot get there, it returns a client of the daemon. If
// none answers, they stay as they are.
func (g *global) optionsOfDaemon(ctx context.Context, at daemon.ExplainOptions, inode uint64) (daemon.ExplainOptions, *api.Client, error) {
	asking, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	client, found, err := g.askGiven(asking, inode)
	switch {
	case unanswered(err):
		if !errors.Is(err, api.ErrNoServer) {
			g.logger().Warn("the daemon does not answer: this is what the kernel holds", "error", err)
		}
		return at, nil, ctx.Err()
	case errors.Is(err, fs.ErrPermission):
		return at, nil, nil // root of another namespace may explain all the same
	case err != nil:
		return at, nil, err
	}
	var there bool
	if at, there = sameNamespace(at, found, inode); there {
		return at, nil, nil
	}
	return at, client, nil
}

// sameNamespace returns options with the table and namespace of a daemon, and whether this process can get
// there.
func sameNamespace(at daemon.ExplainOptions, of api.Daemon, inode uint64) (_ daemon.ExplainOptions, there bool) {
	at.Table, at.PID = of.Table, of.PID
	if of.NetNS == inode {
		return at, true
	}
	at.NetNS = fmt.Sprintf("/proc/%d/ns/net", of.PID)
	found, err := netns.Inode(at.NetNS)
	return at, err == nil && found == of.NetNS
}
