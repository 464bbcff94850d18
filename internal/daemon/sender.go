// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/handover"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/state"
)

// serve answers until the context is done or another daemon has taken over.
func (s *server) serve(ctx context.Context) error {
	metrics := s.metricsHandler()
	server := api.NewServer(api.Options{
		Engine: engine.Values{Engine: s.engine}, Daemon: s.self, Status: s.status, Events: s.engine.Events, Metrics: metrics, Log: s.log,
		Health: s.engine.Health, Changed: s.changes.outcome, Explain: s.explainer(), Doctor: s.doctor(),
		Progress: func() api.Progress { return api.Progress(*s.progress.Load()) },
		Decode:   func(r io.Reader) (nat.State, error) { return state.Decode(r, "request") }, Encode: state.Encode,
		Handovers: s.handovers, Sessions: s.sessions.publish,
	})
	var releasing sync.WaitGroup
	defer releasing.Wait()
	soon, cancel := context.WithCancel(ctx)
	defer cancel()
	releasing.Go(func() { s.atStart.Release(soon) })
	for announce := s.announce; ; announce = func() {} {
		leave := make(chan struct{})
		tasks := []func(context.Context) error{
			s.engine.Run, s.watchFiles, s.logEvents, s.sessions.run,
			func(ctx context.Context) error { return server.ServeUntil(ctx, s.listener, leave) },
		}
		tasks = append(tasks, s.doctorTasks()...)
		if s.scraped != nil {
			tasks = append(tasks, func(ctx context.Context) error {
				return serveMetrics(ctx, s.scraped, metrics, healthHandler(s.engine.Health), s.log)
			})
		}
		served := make(chan error, 1)
		go func() { served <- runAll(ctx, tasks) }()
		announce()
		to, err := s.awaitHandover(ctx, served, leave)
		if to.Conn == nil {
			return err
		}
		if err := s.handOver(ctx, to); err != nil || s.gone {
			return err
		}
	}
}

// awaitHandover waits until the tasks have ended, by themselves or because another daemon asks
// for a handover. Without one the Sender is zero.
func (s *server) awaitHandover(ctx context.Context, served <-chan error, leave chan<- struct{}) (handover.Sender, error) {
	for {
		var nc *net.UnixConn
		select {
		case err := <-served:
			return handover.Sender{}, err
		case nc = <-s.handovers:
		}
		to, err := handover.NewSender(nc)
		if err == nil {
			err = to.AwaitBegin(ctx)
		}
		if err != nil {
			s.log.Warn("a handover could not begin", "error", err)
			continue
		}
		close(leave)
		if err := <-served; err != nil {
			return handover.Sender{}, to.Abort(err)
		}
		return to, nil
	}
}

// handOver lends everything to another daemon, and releases it when that serves. After a
// handover that failed all is as before, unless there is an error.
func (s *server) handOver(ctx context.Context, to handover.Sender) error {
	s.log.Info("another process takes over", "pid", to.PID())
	s.sessions.pause()
	err := s.lend(ctx, to)
	if err == nil {
		if err = to.Commit(ctx); err == nil || ctx.Err() != nil {
			return s.release(to) // the receiver may serve, also if this process is told to end
		}
	}
	s.log.Warn("another process did not take over", "pid", to.PID(), "error", err)
	_ = to.Close() // it is already if the other process aborted
	return s.resume(ctx)
}

// lend sends everything to the other daemon, and waits until that could serve.
func (s *server) lend(ctx context.Context, to handover.Sender) error {
	lent, err := s.engine.Suspend(ctx)
	if err == nil && s.file != nil {
		err = s.file.Close() // and with it the lock
	}
	var sockets []handover.Socket
	if err == nil {
		sockets, err = s.sockets(lent)
	}
	if err != nil {
		return to.Abort(err)
	}
	return to.Lend(ctx, sockets)
}

// Between two attempts to go on is a pause, which doubles up to the longest: the process
// that did not take over may not have ended yet.
const (
	firstResume   = 20 * time.Millisecond
	longestResume = 5 * time.Second
)

// resume goes on after a handover that failed, as soon as that is possible.
func (s *server) resume(ctx context.Context) error {
	for pause := firstResume; ; pause = min(2*pause, longestResume) {
		err := s.engine.Resume(ctx)
		switch {
		case err == nil:
			s.sessions.resume()
			s.log.Info("this process goes on")
			return nil
		case errors.Is(err, nat.ErrNewer), errors.Is(err, nat.ErrForeign):
			return err // the other daemon has changed the table: only that one can go on
		}
		s.log.Warn("this process cannot go on yet", "error", err)
		if s.file != nil {
			err = s.file.Close() // the next attempt takes its lock
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// release closes everything that the other daemon has now, and tells the service manager and
// that daemon.
func (s *server) release(to handover.Sender) error {
	s.gone = true
	err := errors.Join(s.engine.Leave(), api.Abandon(s.listener))
	s.listener = nil
	s.sessions.close()
	if s.scraped != nil {
		err = errors.Join(err, s.scraped.TCPListener.Close())
		s.scraped = nil
	}
	if pid := to.PID(); pid != 0 {
		s.notifyManager(fmt.Sprintf("MAINPID=%d", pid))
	}
	if releaseErr := to.Release(); releaseErr != nil {
		s.log.Warn("the other process was not told", "error", releaseErr)
	}
	s.log.Info("another process has taken over", "pid", to.PID(), "still_carried", s.engine.Carried())
	return err
}

// refuseHandovers closes the connections of processes that ask too late.
func (s *server) refuseHandovers() {
	for {
		select {
		case nc := <-s.handovers:
			_ = nc.Close()
		default:
			return
		}
	}
}

// Sockets are handed over by name. The first word is the kind; what follows says which one it
// is: a path, an address, or a frontend, as in "tcp :8080" and "udp [::1]:53". Daemons of other
// versions know these names.
const (
	nameLock    = "lock"    // of the table; nothing follows
	nameMade    = "made"    // the API's, whose file a daemon made; its path follows
	nameGiven   = "given"   // the API's, of the service manager; its path follows
	nameMetrics = "metrics" // that of the metrics; its address follows
	nameSession = "session" // a connection; the name of its mappings follows
	nameProgram = "program" // a file of an eBPF program; what the engine calls it follows
)

// sockets are all sockets of this daemon, by name. The descriptors stay its own.
func (s *server) sockets(lent engine.Sockets) ([]handover.Socket, error) {
	all := []handover.Socket{{Name: nameLock, FD: lent.Lock}}
	fd, made, err := api.Lend(s.listener)
	if err != nil {
		return nil, err
	}
	name := map[bool]string{true: nameMade, false: nameGiven}[made]
	all = append(all, handover.Socket{Name: name + " " + s.listener.Addr().String(), FD: fd})
	if s.scraped != nil {
		fd, _, err := api.Lend(s.scraped.TCPListener)
		if err != nil {
			return nil, err
		}
		all = append(all, handover.Socket{Name: nameMetrics + " " + s.scraped.Addr().String(), FD: fd})
	}
	for _, p := range lent.Ports {
		all = append(all, handover.Socket{Name: p.Proto.String() + " " + frontendText(p.Frontend), FD: p.FD})
	}
	for _, p := range lent.Programs {
		all = append(all, handover.Socket{Name: nameProgram + " " + p.Name, FD: int(p.File.Fd())})
	}
	return all, s.sessions.lend(func(name string, fd int) {
		all = append(all, handover.Socket{Name: nameSession + " " + name, FD: fd})
	})
}

// frontendText is a frontend as net.Listen has it: without an address for any.
func frontendText(ap netip.AddrPort) string {
	if !ap.Addr().IsValid() {
		return ":" + strconv.Itoa(int(ap.Port()))
	}
	return ap.String()
}
