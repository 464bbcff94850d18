// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/daemon"
	"github.com/nftnat/nftnat/internal/printable"
	"github.com/nftnat/nftnat/nat"
)

func newServe(g *global) *cobra.Command {
	var (
		opts             daemon.Options
		log              logFlags
		loopback         string
		takeover, detach bool
	)
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the daemon in the foreground",
		Long: "Run the daemon in the foreground: it owns the table, serves localhost by eBPF or proxies,\n" +
			"and answers on a unix socket. Commands that change something start a daemon in the\n" +
			"background if none runs. SIGTERM ends the daemon; what netfilter translates stays\n" +
			"published, but the proxies end.\n\n" +
			"With --state, each change is written to a file before it is acknowledged. At the start,\n" +
			"what the kernel has lost by a reboot or a flushed ruleset is restored from the file.\n" +
			"Where the two differ about something that both have, the kernel's version stands.\n\n" +
			"With --takeover, a running daemon, of any version, hands its sockets over: no\n" +
			"connection is refused, and those it carries stay with it until they end. If the new\n" +
			"daemon cannot start, the old one goes on. If none runs, --takeover does nothing.\n\n" +
			"With --detach, the daemon runs in the background, and the command returns when it is\n" +
			"ready. The log goes to standard error if that is a file or the journal, and otherwise\n" +
			"to a file beside the socket.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts.Starter = daemon.Background()
			log.complete(cmd.Flags().Changed)
			err := refuseEmpty(cmd.Flags(), "state", "metrics", "group")
			if err == nil {
				g.log, err = log.logger(g.stderr)
			}
			if err == nil {
				opts.Engine.Loopback, err = parseLoopback(cmd.Flags(), loopback)
			}
			if err == nil {
				err = doctorInterval(cmd.Flags(), &opts.DoctorInterval)
			}
			if err == nil {
				err = opts.Validate()
			}
			switch {
			case err != nil:
			case detach && opts.Starter == nil:
				return g.detach(cmd.Context())
			default:
				if takeover {
					opts.Predecessor = g.predecessor
				}
				err = g.serve(cmd.Context(), opts)
			}
			var bad *daemon.OptionError
			if errors.As(err, &bad) {
				err = usageError{err}
			}
			if err != nil {
				opts.Starter.Failed(exitStatus(err), printable.Line(err.Error()))
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&opts.Engine.NoSysctl, "no-sysctl", false, "do not turn on IP forwarding")
	flags.BoolVar(&opts.Engine.NoOwner, "no-owner", false, "let other programs change the table, and repair what they break")
	flags.StringVar(&loopback, "loopback", engine.LoopbackAuto.String(),
		"serve localhost by `WAY`: bpf, proxy, or auto, which is bpf where it can be had (environment: "+envLoopback+")")
	flags.StringVar(&opts.Metrics, "metrics", "", "also answer GET /metrics over TCP at `ADDR`")
	flags.IntVar(&opts.MetricsMappings, "metrics-mappings", 0,
		fmt.Sprintf("have the connections of the `N` busiest mappings in the metrics, at most %d", daemon.MaxMetricsMappings))
	flags.StringVar(&opts.Group, "group", "", "let members of `GROUP`, a name or a number, use the socket")
	flags.StringVar(&opts.StateFile, "state", "", "keep networks, endpoints and mappings in `FILE` too, for reboots")
	flags.DurationVar(&opts.DoctorInterval, "doctor-interval", daemon.DefaultDoctorInterval,
		"look what is wrong with ports and host at most once in this `TIME`; 0: never")
	log.add(cmd)
	flags.BoolVar(&takeover, "takeover", false, "take over from the running daemon, if any, without interruption")
	flags.BoolVar(&detach, "detach", false, "run in the background, and return when it is ready")
	return offer(cmd, "socket netns table quiet")
}

// envLoopback stands for --loopback.
const envLoopback = "NFTNAT_LOOPBACK"

// parseLoopback reads the way to serve localhost, from the environment unless it was given.
func parseLoopback(flags *pflag.FlagSet, text string) (engine.Loopback, error) {
	if env := os.Getenv(envLoopback); env != "" && !flags.Changed("loopback") {
		text = env
	}
	way, err := engine.ParseLoopback(text)
	if err != nil {
		return 0, usageError{err}
	}
	return way, nil
}

// envDoctorInterval stands for --doctor-interval.
const envDoctorInterval = "NFTNAT_DOCTOR_INTERVAL"

// doctorInterval takes the interval from the environment unless it was given, and checks it.
func doctorInterval(flags *pflag.FlagSet, d *time.Duration) error {
	const name = "doctor-interval"
	if text := os.Getenv(envDoctorInterval); text != "" && !flags.Changed(name) {
		if err := flags.Set(name, text); err != nil {
			return usageError{fmt.Errorf("%s: invalid time %q", envDoctorInterval, text)}
		}
	}
	if *d != 0 && *d < time.Second {
		return usageError{fmt.Errorf("--%s is less than a second", name)}
	}
	return nil
}

// refuseEmpty refuses options that were given without a value, as by an unset variable of a
// script: the user did not mean to leave them out.
func refuseEmpty(flags *pflag.FlagSet, names ...string) error {
	for _, name := range names {
		if f := flags.Lookup(name); f.Changed && f.Value.String() == "" {
			return usageError{fmt.Errorf("--%s has no value", name)}
		}
	}
	return nil
}

// serve runs the daemon in this process.
func (g *global) serve(ctx context.Context, opts daemon.Options) error {
	if opts.Starter != nil {
		if err := g.leaveDirectory(&opts.StateFile); err != nil {
			return err
		}
	}
	eo, err := g.engineOptions()
	if err != nil {
		return err
	}
	opts.Engine.Table, opts.Engine.NetNS, opts.Engine.Log = eo.Table, eo.NetNS, eo.Log
	opts.Socket, opts.Log = g.socketPath(), g.logger()
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	signal.Ignore(syscall.SIGPIPE) // the process that reads the log may have ended
	err = daemon.Run(ctx, opts)
	if errors.Is(err, nat.ErrOwned) && opts.Predecessor == nil {
		return hintedError{err, "--takeover takes it over from a daemon"}
	}
	return err
}

// leaveDirectory makes paths absolute and leaves the directory of the caller, which the daemon
// would keep busy.
func (g *global) leaveDirectory(state *string) error {
	g.netns = g.namespacePath()
	for _, path := range []*string{&g.socket, &g.netns, state} {
		if *path == "" {
			continue
		}
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = absolute
	}
	return os.Chdir("/")
}

// predecessor asks the daemon that runs to hand over. Nil: none runs.
func (g *global) predecessor(ctx context.Context) (*net.UnixConn, error) {
	client, _, err := g.locate(ctx)
	if errors.Is(err, api.ErrNoServer) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	found, err := client.Daemon(ctx)
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	inode, err := g.namespaceInode()
	if err != nil {
		return nil, err
	}
	if found.NetNS != inode || found.Table != g.table {
		return nil, usageError{fmt.Errorf("take over: the daemon there has table %s of network namespace %d", found.Table, found.NetNS)}
	}
	nc, err := client.Handover(ctx)
	switch {
	case errors.Is(err, fs.ErrPermission):
		err = hintedError{err, "run it as root, or as the user of the daemon"}
	case errors.Is(err, errors.ErrUnsupported):
		err = fmt.Errorf("the daemon, pid %d, is of version %s, which cannot hand over: end it, and start this one", found.PID, found.Version)
	}
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	return nc, nil
}
