// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/confine"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/state"
)

// drainTimeout bounds how long a daemon that is told to end waits for the
// connections that its proxies carry.
const drainTimeout = 10 * time.Second

// successionTimeout bounds how long a daemon waits for the table of one that ends,
// connections and all. It is less than startTimeout.
const successionTimeout = drainTimeout + 3*time.Second

func newServe(g *global) *cobra.Command {
	var flags serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the daemon in the foreground",
		Long: "Run the daemon in the foreground: it owns the table, serves localhost by proxies,\n" +
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
			told := starter()
			flags.log.complete(cmd.Flags().Changed)
			err := refuseEmpty(cmd.Flags(), "state", "metrics", "group")
			if err == nil {
				err = flags.check(g)
			}
			if err != nil {
				return tellStarter(told, err)
			}
			if flags.detach && told == nil {
				return g.detach(cmd.Context())
			}
			if told != nil {
				if err := g.leaveDirectory(&flags); err != nil {
					return tellStarter(told, err)
				}
			}
			return tellStarter(told, serve(cmd.Context(), g, flags, told))
		},
	}
	cmd.Flags().BoolVar(&flags.noSysctl, "no-sysctl", false, "do not turn on IP forwarding")
	cmd.Flags().BoolVar(&flags.noOwner, "no-owner", false, "let other programs change the table, and repair what they break")
	cmd.Flags().StringVar(&flags.metrics, "metrics", "", "also answer GET /metrics over TCP at `ADDR`")
	cmd.Flags().IntVar(&flags.metricsMappings, "metrics-mappings", 0,
		fmt.Sprintf("have the connections of the `N` busiest mappings in the metrics, at most %d", mostMeasured))
	cmd.Flags().StringVar(&flags.group, "group", "", "let members of `GROUP`, a name or a number, use the socket")
	cmd.Flags().StringVar(&flags.state, "state", "", "keep networks, endpoints and mappings in `FILE` too, for reboots")
	flags.log.add(cmd)
	cmd.Flags().BoolVar(&flags.takeover, "takeover", false, "take over from the running daemon, if any, without interruption")
	cmd.Flags().BoolVar(&flags.detach, "detach", false, "run in the background, and return when it is ready")
	return offer(cmd, "socket netns table quiet")
}

// tellStarter returns an error as it is, and tells it the process that waits for the
// daemon, which tells the user.
func tellStarter(told *os.File, err error) error {
	if told != nil && err != nil {
		_, _ = fmt.Fprintf(told, "%d %s\n", exitStatus(err), oneLine(err.Error()))
	}
	return err
}

// leaveDirectory leaves the directory of the caller, which would be kept busy otherwise, once
// no path is relative to it.
func (g *global) leaveDirectory(flags *serveFlags) error {
	g.netns = g.namespacePath()
	for _, path := range []*string{&g.socket, &g.netns, &flags.state} {
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

// serveFlags are those of serve alone.
type serveFlags struct {
	noSysctl, noOwner     bool
	takeover, detach      bool
	metrics, group, state string
	// metricsMappings is of how many mappings the metrics tell the connections.
	metricsMappings int
	log             logFlags
}

// refuseEmpty refuses options that were given without a value, as by an unset variable of a
// script: that they were not given is not what was meant.
func refuseEmpty(flags *pflag.FlagSet, names ...string) error {
	for _, name := range names {
		if f := flags.Lookup(name); f.Changed && f.Value.String() == "" {
			return usageError{fmt.Errorf("--%s has no value", name)}
		}
	}
	return nil
}

// check sets the log up, and refuses what no daemon could do, before anything has changed.
func (f *serveFlags) check(g *global) (err error) {
	if f.metricsMappings < 0 || f.metricsMappings > mostMeasured {
		return usageError{fmt.Errorf("invalid number of mappings %d for the metrics: it is not 0 to %d", f.metricsMappings, mostMeasured)}
	}
	if f.metrics != "" {
		_, port, err := net.SplitHostPort(f.metrics)
		if err == nil {
			_, err = net.LookupPort("tcp", port)
		}
		if err != nil {
			return usageError{fmt.Errorf("listen for metrics: %w", err)}
		}
	}
	g.log, err = f.log.logger(g.stderr)
	return err
}

// server is a daemon while it runs.
type server struct {
	engine  *engine.Engine
	feed    api.Feed
	started time.Time
	netns   uint64
	// confinement is what it has left itself.
	confinement confine.Report
	// controlGroup is why it is still in the control group of the command that started it;
	// nil: it is not.
	controlGroup error
	log          *slog.Logger
	changes      *changeLog
	// measured is of how many mappings the metrics tell the connections.
	measured int
	// socketGone is why commands cannot find the socket; empty: they can.
	socketGone atomic.Pointer[string]
	// othersPath is whether the path of the socket is that of a server with another table. It
	// is watchFiles's.
	othersPath bool
	// stateGone is why the state file is not kept; empty: it is.
	stateGone atomic.Pointer[string]
	// file is the state file; nil: none is kept.
	file *state.File
	// listener is the API's, and scraped that of the metrics; nil: there is none.
	listener net.Listener
	scraped  *keptListener
	// handovers are connections of processes that want this one's place, and gone is
	// whether one of them has it.
	handovers chan *net.UnixConn
	gone      bool
	// progress is how far the change is that the engine is making.
	progress atomic.Pointer[engine.Progress]
}

func serve(ctx context.Context, g *global, flags serveFlags, told *os.File) (err error) {
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// Whoever has read what a daemon says may have gone.
	signal.Ignore(syscall.SIGPIPE)
	keepSmall()
	group, err := groupID(flags.group)
	if err != nil {
		return err
	}
	opts, err := g.engineOptions()
	if err != nil {
		return err
	}
	var stays error
	if told != nil && !staysInControlGroup(os.Environ()) {
		if _, stays = leaveControlGroup(); stays != nil { // again, after enterBackground, for the reason
			g.logger().Warn("the daemon ends with the unit or session that started it", "error", stays)
		}
	}
	raiseFileLimit()
	var room sync.WaitGroup
	room.Go(makeRoom) // while there is other work
	defer room.Wait()
	s := &server{started: time.Now(), log: g.logger(), controlGroup: stays, handovers: make(chan *net.UnixConn, 1)}
	s.changes, s.measured = newChangeLog(s.log), flags.metricsMappings
	defer s.turnAway()
	if s.netns, err = g.namespaceInode(); err != nil {
		return err
	}
	// Until the very end: also while connections are carried that another daemon has left here.
	ctx, end := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer end()
	ns := nameNamespace(s.netns, g.namespacePath(), netnsDirectory) // while files can be read
	watching.Go(func() {
		if ns.await(ctx) {
			s.log.Warn("the network namespace was deleted, and so the daemon ends", "netns", ns.String())
			end()
		}
	})
	opts.NoSysctl, opts.NoOwner = flags.noSysctl, flags.noOwner
	opts.LockWait, opts.Notify = successionTimeout, s.notify
	s.progress.Store(&engine.Progress{})
	opts.Progress = func(p engine.Progress) { s.progress.Store(&p) }
	var from *inheritance // nil: nobody is succeeded
	if flags.takeover {
		if from, err = g.takeOver(ctx, s.netns); err != nil {
			return err
		}
		// Last of all: the other one goes on when this one has let go of everything.
		defer func() { from.end(err) }()
		opts.Sockets = from.engine()
	}
	if flags.state != "" {
		s.file = state.NewFile(flags.state)
		defer func() { err = errors.Join(err, s.file.Close()) }() // when the engine has closed
		opts.Store = s.file
	}
	listenForMetrics := func() (err error) {
		if flags.metrics != "" && s.scraped == nil {
			s.scraped, err = listenForMetrics(flags.metrics, from)
		}
		return err
	}
	if opts.NetNS != "" { // where it was started
		if err := listenForMetrics(); err != nil {
			return err
		}
	}
	visits := enter(&opts)
	s.engine, err = engine.Open(ctx, opts)
	if errors.Is(err, nat.ErrOwned) && !flags.takeover {
		err = hintedError{err, "--takeover takes it over from a daemon"}
	}
	if err != nil {
		return errors.Join(err, s.closeListeners(from))
	}
	defer func() {
		ctx, cancel := s.drainContext(ctx)
		defer cancel()
		err = errors.Join(err, s.engine.Shutdown(ctx))
	}()
	defer func() { err = errors.Join(err, s.closeListeners(from)) }()
	if s.listener, err = listen(g, group, from); err != nil {
		return err
	}
	if err := listenForMetrics(); err != nil {
		return err
	}
	if err := from.accept(); err != nil {
		return err
	}
	if err := s.engine.Begin(); err != nil {
		s.log.Warn("not all ports are served", "error", err)
	}
	s.ownSocketFiles(group)
	s.confinement = g.confine(flags, s.listener, visits)
	from.finish(s.log)
	return s.serveAndHandOver(ctx, g, func() { s.announce(told) })
}

// announce tells whoever waits for it that the daemon is ready.
func (s *server) announce(told *os.File) {
	if told != nil {
		if _, err := io.WriteString(told, readyWord); err != nil {
			s.log.Warn("the command that started the daemon has ended", "error", err)
		}
		_ = told.Close()
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		s.log.Warn("the service manager was not told", "error", err)
	}
}

// runAll runs the tasks until the context is done or one of them fails, and waits for
// all of them.
func runAll(ctx context.Context, tasks []func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(tasks))
	var running sync.WaitGroup
	for i, task := range tasks {
		running.Go(func() {
			errs[i] = task(ctx)
			cancel()
		})
	}
	running.Wait()
	return errors.Join(errs...)
}

// listen takes the socket of the daemon that is succeeded, or the one that the service
// manager hands over, or makes one of the group.
func listen(g *global, group int, from *inheritance) (net.Listener, error) {
	if l, err := from.listener(group); l != nil || err != nil {
		return l, err
	}
	handed, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("take sockets of the service manager: %w", err)
	}
	switch {
	case len(handed) != 0 && group != ownGroup:
		return nil, usageError{errors.New("--group is for a socket that the daemon makes; SocketGroup= is that of a unit's")}
	case len(handed) == 1 && handed[0] != nil:
		return handed[0], nil
	case len(handed) != 0:
		return nil, fmt.Errorf("take sockets of the service manager: it hands over %d descriptors, and not one listening socket", len(handed))
	}
	path := g.socketPath()
	l, err := api.Listen(path, group)
	if err == nil && group != ownGroup && unreachable(path, group) {
		g.logger().Warn("members of the group cannot reach the socket in its directory", "socket", path, "group", group)
	}
	return l, err
}
