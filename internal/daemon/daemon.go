// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/explain"
	"github.com/nftnat/nftnat/internal/confine"
	"github.com/nftnat/nftnat/internal/netns"
	"github.com/nftnat/nftnat/internal/startmemory"
	"github.com/nftnat/nftnat/state"
)

// DrainTimeout bounds how long a daemon that is told to end waits for the connections that
// its proxies carry.
const DrainTimeout = 10 * time.Second

// successionTimeout bounds how long a daemon waits for the table of one that ends,
// connections and all. A command waits longer for a daemon that it starts.
const successionTimeout = DrainTimeout + 3*time.Second

// MaxMetricsMappings bounds Options.MetricsMappings: each mapping is two time series, of which
// Prometheus keeps every one that it has ever seen.
const MaxMetricsMappings = 1000

// Options say what a daemon serves and where.
type Options struct {
	// Engine is what the engine is opened with. The daemon sets Sockets, Store, LockWait,
	// Progress.
	Engine engine.Options
	// Socket is the path at which the API listens, unless the service manager hands a
	// socket over.
	Socket string
	// Group, a name or a number, is the group whose members may use the socket. Empty: that
	// of the process.
	Group string
	// StateFile keeps networks, endpoints and mappings for reboots. Empty: there is none.
	StateFile string
	// Metrics is the TCP address at which GET /metrics is answered, too. Empty: there is none.
	Metrics string
	// MetricsMappings is for how many mappings, those with most connections, the metrics
	// have connections: at most MaxMetricsMappings.
	MetricsMappings int
	// Predecessor asks the daemon that runs to hand over, and returns the connection on which
	// it does. It returns nil if none runs. Nil: the daemon takes nothing over.
	Predecessor func(ctx context.Context) (*net.UnixConn, error)
	// Starter is the command that waits for this daemon. Nil: there is none.
	Starter *Starter
	// DoctorInterval is how long the daemon waits at least before it looks anew what is wrong with
	// ports and host. Zero: it does not look.
	DoctorInterval time.Duration
	// Log is not nil.
	Log *slog.Logger
}

// OptionError says that a daemon cannot run as its options say. Nothing was changed.
type OptionError struct{ Err error }

func (e *OptionError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *OptionError) Unwrap() error { return e.Err }

// Validate returns an [*OptionError] for options with which no daemon can run.
func (o *Options) Validate() error {
	_, err := o.check()
	return err
}

// check is Validate, and returns the number of the group.
func (o *Options) check() (group int, err error) {
	if o.MetricsMappings < 0 || o.MetricsMappings > MaxMetricsMappings {
		return 0, &OptionError{fmt.Errorf("invalid number of mappings %d for the metrics: it is not 0 to %d", o.MetricsMappings, MaxMetricsMappings)}
	}
	if o.Metrics != "" {
		_, port, err := net.SplitHostPort(o.Metrics)
		if err == nil {
			_, err = net.LookupPort("tcp", port)
		}
		if err != nil {
			return 0, &OptionError{fmt.Errorf("listen for metrics: %w", err)}
		}
	}
	return groupID(o.Group)
}

// server is a daemon while it runs.
type server struct {
	Options

	engine  *engine.Engine
	started time.Time
	atStart startmemory.Memory
	group   int
	netns   uint64
	log     *slog.Logger
	changes *changeLog
	// findings are what is wrong.
	findings *findings
	// outside says that the process had to stay outside of the engine's network namespace, which
	// the engine's threads visit.
	outside bool
	// legacyLists are as in explain.Options.
	legacyLists []*os.File
	// confinement is what the process has been confined to.
	confinement confine.Report
	// socketGone is why commands cannot find the socket, and stateGone why the state file is
	// not kept; empty: there is no reason.
	socketGone, stateGone atomic.Pointer[string]
	// othersPath says that a server with another table has the path of the socket. It is
	// for watchFiles alone.
	othersPath bool
	// sessions are mappings that last as long as their processes.
	sessions *sessions
	// file is the state file; nil: there is none.
	file *state.File
	// listener is the API's, and scraped that of the metrics; nil: there is none.
	listener net.Listener
	scraped  *keptListener
	// handovers are connections of processes that ask for a handover, and gone says that one
	// of them has everything now.
	handovers chan *net.UnixConn
	gone      bool
	// progress is that of the change which the engine is making.
	progress atomic.Pointer[engine.Progress]
}

// Run runs a daemon until ctx is done, another daemon has taken over from it, or it fails.
func Run(ctx context.Context, o Options) error {
	startmemory.CollectSooner()
	s := &server{
		Options: o, started: time.Now(), log: o.Log, changes: newChangeLog(o.Log), handovers: make(chan *net.UnixConn, 1),
	}
	s.findings = s.newFindings()
	var err error
	if s.group, err = o.check(); err != nil {
		return err
	}
	if s.netns, err = netns.Inode(o.Engine.NetNS); err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	s.progress.Store(&engine.Progress{})
	if o.Starter != nil && o.Starter.stays != nil {
		s.log.Warn("the daemon ends with the unit or session that started it", "error", o.Starter.stays)
	}
	raiseFileLimit()
	var working sync.WaitGroup
	working.Go(growFileTable) // while there is other work
	defer working.Wait()
	defer s.refuseHandovers()
	// The namespace is watched to the very end, also while the process carries connections
	// after a handover.
	ctx, end := context.WithCancel(ctx)
	names := namesOf(s.netns, o.Engine.NetNS, netns.Dir) // while files can be read
	working.Go(func() {
		if names.awaitDeletion(ctx) {
			s.log.Warn("the network namespace was deleted, and so the daemon ends", "netns", names.String())
			end()
		}
	})
	defer end()
	if o.Predecessor == nil {
		return s.run(ctx, nil)
	}
	from, err := s.takeOver(ctx)
	if err == nil {
		err = s.run(ctx, from)
		from.end(err) // last of all: the predecessor goes on once this process has closed everything
	}
	return err
}

// run opens everything, serves, and closes everything.
func (s *server) run(ctx context.Context, from *inheritance) (err error) {
	if s.StateFile != "" {
		s.file = state.NewFile(s.StateFile)
		defer func() { err = errors.Join(err, s.file.Close()) }() // when the engine is closed
	}
	defer func() { err = errors.Join(err, s.closeEngine(ctx)) }()
	defer func() { err = errors.Join(err, s.closeListeners(from)) }()
	if err := s.openEngine(ctx, from); err != nil {
		return err
	}
	if err := s.listen(from); err != nil {
		return err
	}
	if err := s.listenForMetrics(from); err != nil {
		return err
	}
	if err := from.ready(ctx); err != nil {
		return err
	}
	if err := s.engine.Begin(); err != nil {
		s.log.Warn("not all ports are served", "error", err)
	}
	s.sessions = newSessions(s.engine, s.log, s.changes.outcome)
	defer s.sessions.close()
	s.sessions.inherit(from.takeSessions())
	s.ownSocketFiles()
	if !s.outside {
		s.legacyLists = explain.OpenLegacyLists()
		for _, l := range s.legacyLists {
			defer func() { _ = l.Close() }() // nothing was written
		}
	}
	s.atStart = startmemory.Find()
	ended := s.sessions.find(ctx)
	s.confine()
	from.committed(s.log)
	s.sessions.removeAll(ctx, ended)
	return s.serve(ctx)
}

// openEngine enters the network namespace and opens the engine there.
func (s *server) openEngine(ctx context.Context, from *inheritance) (err error) {
	opts := s.Engine
	opts.LockWait = successionTimeout
	opts.Progress = func(p engine.Progress) { s.progress.Store(&p) }
	if s.file != nil {
		opts.Store = s.file
	}
	if opts.NetNS != "" {
		// The metrics are served where the daemon was started.
		if err := s.listenForMetrics(from); err != nil {
			return err
		}
		// If the process cannot enter the namespace, the engine visits it, or says why not.
		s.outside = confine.Enter(opts.NetNS) != nil
		if !s.outside {
			opts.NetNS = ""
		}
	}
	opts.Sockets = from.engine()
	s.engine, err = engine.Open(ctx, opts)
	return err
}

// closeEngine closes the engine, after up to DrainTimeout for the connections of its proxies.
// After a handover they have as long as they take, until this process is told to end.
func (s *server) closeEngine(told context.Context) error {
	if s.engine == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	waiting.Go(func() {
		if s.gone {
			select {
			case <-told.Done():
			case <-ctx.Done():
			}
		}
		select {
		case <-time.After(DrainTimeout):
			cancel()
		case <-ctx.Done():
		}
	})
	return s.engine.Shutdown(ctx)
}

// announce says that the daemon is ready: to the command that started it, and to the service
// manager.
func (s *server) announce() {
	if err := s.Starter.ready(); err != nil {
		s.log.Warn("the command that started the daemon has ended", "error", err)
	}
	s.notifyManager(sd.SdNotifyReady)
}

// notifyManager sends a state to the service manager (sd_notify(3)), if there is one.
func (s *server) notifyManager(state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
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
