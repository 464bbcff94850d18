// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/internal/daemon"
	"github.com/nftnat/nftnat/internal/printable"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/trace"
)

func newTrace(g *global) *cobra.Command {
	var (
		from     string
		count    uint
		duration time.Duration
	)
	cmd := &cobra.Command{
		Use:   "trace [PROTO FRONTEND]",
		Short: "Show live what becomes of packets to published ports",
		Long: "Show live what becomes of packets to a published port, or to all of them, and of\n" +
			"their answers: each rule that they come to, and where they end. PROTO and FRONTEND\n" +
			"are as given to add.\n\n" +
			"The command marks these packets for nftrace in a table of its own, which goes with\n" +
			"it, however it ends. At most 100 packets a second are marked; it says how many were\n" +
			"left out. Where eBPF may be used, it also says why the kernel has dropped a packet.\n" +
			"It needs CAP_NET_ADMIN, and asks no daemon for the packets.",
		Example: "  nftnat trace tcp 8080\n  nftnat trace udp 192.0.2.1:53 --from 192.0.2.7\n  nftnat trace --duration 10s --json",
		Args: usage(func(_ *cobra.Command, args []string) error {
			if len(args) != 0 && len(args) != 2 {
				return errors.New("wrong number of arguments")
			}
			return nil
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := traceOptions(args, from, cmd.Flags().Changed("from"))
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("duration") && duration <= 0 {
				return usageError{fmt.Errorf("--duration %s is no time to wait", duration)}
			}
			if cmd.Flags().Changed("count") && count == 0 {
				return usageError{errors.New("--count 0 asks for no packet")}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return g.trace(ctx, cmd.OutOrStdout(), opts, count, duration)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&from, "from", "", "trace only packets of the client at this `ADDR`, and their answers")
	flags.UintVar(&count, "count", 0, "end after `N` packets")
	flags.DurationVar(&duration, "duration", 0, "end after this `TIME`, such as 10s")
	cmd.ValidArgsFunction = g.completeExplained
	completeFlag(cmd, "from", cobra.FixedCompletions([]string{"127.0.0.1", "::1"}, cobra.ShellCompDirectiveNoFileComp))
	return offer(cmd, toDaemon+forJSON)
}

// traceOptions reads what is traced.
func traceOptions(args []string, from string, fromGiven bool) (opts trace.Options, err error) {
	m := nat.Mapping{}
	if len(args) == 2 {
		if m.Proto, err = nat.ParseProto(args[0]); err != nil {
			return opts, err
		}
		if m.Frontend, m.More, err = nat.ParseFrontend(args[1]); err != nil {
			return opts, err
		}
		if m.Frontend.Port() == 0 {
			return opts, usageError{fmt.Errorf("invalid frontend %q: port 0 names no mapping", args[1])}
		}
		opts.Frontends = []nat.Mapping{m}
	}
	if fromGiven {
		if opts.From, err = report.ParseClient(from, m.Frontend.Addr()); err != nil {
			return opts, err
		}
	}
	return opts, nil
}

// trace prints events until the context is done, or as many packets or as much time as was asked for.
func (g *global) trace(ctx context.Context, out io.Writer, opts trace.Options, count uint, duration time.Duration) (err error) {
	at, err := g.tracedAt(ctx)
	if err != nil {
		return err
	}
	if at.NetNS != "" {
		ns, err := os.Open(at.NetNS)
		if err != nil {
			return usageError{fmt.Errorf("open network namespace: %w", err)}
		}
		defer func() { _ = ns.Close() }() // nothing was written
		opts.NetNS = int(ns.Fd())
	}
	finder, err := engine.OpenFinder(engine.FinderOptions{Table: at.Table, NetNS: at.NetNS})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, finder.Close()) }()
	opts.Published, opts.Leads = g.publishedFor(opts.Frontends, finder), g.leadsLocalhost
	t, err := trace.Open(ctx, opts)
	if err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	if duration != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, duration)
		defer cancel()
	}
	seen := uint(0)
	err = t.Run(ctx, func(e trace.Event) error {
		if err := g.printEvent(out, e); err != nil {
			return err
		}
		if _, ok := e.(trace.Packet); ok {
			if seen++; seen == count {
				return errEnough
			}
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return errors.Join(err, t.Close())
}

// errEnough ends a trace after so many packets.
var errEnough = errors.New("enough")

func (g *global) printEvent(out io.Writer, e trace.Event) error {
	if _, ok := e.(trace.Note); ok && g.quiet {
		return nil
	}
	if g.json {
		return printJSON(out, trace.Document(e))
	}
	_, err := fmt.Fprintln(out, printable.Text(trace.Line(e)))
	return err
}

// tracedAt is the table and network namespace: those that were given, or of the daemon at the socket that was given.
func (g *global) tracedAt(ctx context.Context) (at daemon.ExplainOptions, err error) {
	if err := engine.ValidateTableName(g.table); err != nil {
		return at, err
	}
	inode, err := g.namespaceInode()
	if err != nil {
		return at, err
	}
	at = daemon.ExplainOptions{Table: g.table, NetNS: g.namespacePath()}
	if g.socket == "" || g.direct {
		return at, nil
	}
	at, client, err := g.optionsOfDaemon(ctx, at, inode)
	if err == nil && client != nil {
		err = fmt.Errorf("enter the network namespace of the daemon: %w", fs.ErrPermission)
	}
	return at, err
}

// leadsLocalhost reports whether the daemon leads clients on localhost by eBPF, as far as is known.
func (g *global) leadsLocalhost(ctx context.Context) bool {
	if g.direct {
		return false
	}
	client, _, err := g.locate(ctx)
	if err != nil {
		return false
	}
	status, err := client.Status(ctx)
	return err == nil && status.Loopback != nil && status.Loopback.By == api.LoopbackBPF
}

// publishedFor returns what reads the mappings of the frontends, or all if there are none.
func (g *global) publishedFor(frontends []nat.Mapping, finder *engine.Finder) func(context.Context) ([]nat.Mapping, error) {
	all := func(ctx context.Context) ([]nat.Mapping, error) {
		return ask(ctx, g, reading, func(p publisher, ctx context.Context) ([]nat.Mapping, error) { return p.Mappings(ctx) })
	}
	if len(frontends) == 0 {
		return all
	}
	return func(ctx context.Context) (found []nat.Mapping, err error) {
		for _, m := range frontends {
			if m.More > 0 {
				return all(ctx)
			}
			ms, err := finder.Find(ctx, m.Proto, m.Frontend)
			if err != nil {
				return nil, err
			}
			found = append(found, ms...)
		}
		return found, nil
	}
}
