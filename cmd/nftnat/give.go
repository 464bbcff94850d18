// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/handover"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/state"
)

// serveAndHandOver serves until the context is done or another process has this one's
// place. It calls announce when it serves first.
func (s *server) serveAndHandOver(ctx context.Context, g *global, announce func()) error {
	handler := s.metrics()
	server := api.NewServer(api.Options{
		Engine: engine.Values{Engine: s.engine}, Status: s.status, Events: &s.feed, Metrics: handler, Log: g.logger(),
		Health: s.engine.Health, Changed: s.changes.outcome,
		Progress: func() api.Progress { return progressOf(*s.progress.Load()) },
		Decode:   func(r io.Reader) (nat.State, error) { return state.Decode(r, "request") }, Encode: state.Encode,
		Handovers: s.handovers,
	})
	for ; ; announce = func() {} {
		leave := make(chan struct{})
		tasks := []func(context.Context) error{
			s.engine.Run, s.watchFiles,
			func(ctx context.Context) error { return server.ServeUntil(ctx, s.listener, leave) },
		}
		if s.scraped != nil {
			tasks = append(tasks, func(ctx context.Context) error { return serveMetrics(ctx, s.scraped, handler, health(s.engine.Health)) })
		}
		served := make(chan error, 1)
		go func() { served <- runAll(ctx, tasks) }()
		announce()
		asked, err := s.awaitHandover(ctx, served, leave)
		if asked == nil {
			return err
		}
		if err := s.handOver(ctx, asked); err != nil || s.gone {
			return err
		}
	}
}

// awaitHandover waits until the tasks have ended, by themselves or because somebody asks
// for a handover. Nobody has if the connection is nil.
func (s *server) awaitHandover(ctx context.Context, served <-chan error, leave chan<- struct{}) (*handover.Conn, error) {
	for {
		var nc *net.UnixConn
		select {
		case err := <-served:
			return nil, err
		case nc = <-s.handovers:
		}
		asked, err := handover.NewConn(nc)
		if err == nil {
			stop := context.AfterFunc(ctx, asked.Interrupt)
			err = asked.Await()
			stop()
		}
		if err != nil {
			s.log.Warn("a handover could not begin", "error", err)
			continue
		}
		close(leave)
		if err := <-served; err != nil {
			return nil, asked.Refuse(err)
		}
		return asked, nil
	}
}

// handOver lends everything to another process, and lets it go when that serves. If it
// comes to nothing all is as before, unless there is an error.
func (s *server) handOver(ctx context.Context, to *handover.Conn) error {
	stop := context.AfterFunc(ctx, to.Interrupt)
	defer stop()
	s.log.Info("another process takes over", "pid", to.PID())
	err := s.lend(ctx, to)
	if err == nil {
		if err = to.Yield(); err == nil || ctx.Err() != nil {
			return s.leave(to) // in the end it is the other one's, also if this one is told to end
		}
	}
	s.log.Warn("another process did not take over", "pid", to.PID(), "error", err)
	_ = to.Close() // it is already if the other process said no
	return s.resume(ctx)
}

// lend gives the other process all that there is, and waits until it could serve.
func (s *server) lend(ctx context.Context, to *handover.Conn) error {
	lent, err := s.engine.Suspend(ctx)
	if err == nil && s.file != nil {
		err = s.file.Close() // and with it the lock
	}
	var sockets []handover.Socket
	if err == nil {
		sockets, err = s.sockets(lent)
	}
	if err != nil {
		return to.Refuse(err)
	}
	return to.Lend(sockets)
}

// Between two attempts to go on is a pause, which doubles up to the longest: the process
// that did not take over may not have ended yet.
const (
	firstResume   = 20 * time.Millisecond
	longestResume = 5 * time.Second
)

// resume goes on after a handover that came to nothing, as soon as that is possible.
func (s *server) resume(ctx context.Context) error {
	for pause := firstResume; ; pause = min(2*pause, longestResume) {
		err := s.engine.Resume(ctx)
		switch {
		case err == nil:
			s.log.Info("this process goes on")
			return nil
		case errors.Is(err, nat.ErrNewer), errors.Is(err, nat.ErrForeign):
			return err // the other one has made the table its own: only it can go on
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

// leave lets everything go, and tells the service manager and the other process.
func (s *server) leave(to *handover.Conn) error {
	s.gone = true
	err := errors.Join(s.engine.Leave(), api.Abandon(s.listener))
	s.listener = nil
	if s.scraped != nil {
		err = errors.Join(err, s.scraped.TCPListener.Close())
		s.scraped = nil
	}
	if pid := to.PID(); pid != 0 {
		if _, notifyErr := daemon.SdNotify(false, fmt.Sprintf("MAINPID=%d", pid)); notifyErr != nil {
			s.log.Warn("the service manager was not told", "error", notifyErr)
		}
	}
	if leaveErr := to.Leave(); leaveErr != nil {
		s.log.Warn("the other process was not told", "error", leaveErr)
	}
	s.log.Info("another process has taken over", "pid", to.PID(), "still_carried", s.engine.Carried())
	return err
}

// drainContext bounds how long what the proxies carry may take to end: what another
// process has taken over from until this one is told to end, and then as always.
func (s *server) drainContext(told context.Context) (context.Context, context.CancelFunc) {
	if !s.gone {
		return context.WithTimeout(context.Background(), drainTimeout)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var timer *time.Timer
	waiting := make(chan struct{})
	stop := context.AfterFunc(told, func() {
		defer close(waiting)
		timer = time.AfterFunc(drainTimeout, cancel)
	})
	return ctx, func() {
		if !stop() {
			<-waiting
			timer.Stop()
		}
		cancel()
	}
}

// turnAway closes the connections of those who ask too late.
func (s *server) turnAway() {
	for {
		select {
		case nc := <-s.handovers:
			_ = nc.Close()
		default:
			return
		}
	}
}

// closeListeners closes what another process does not have.
func (s *server) closeListeners(from *inheritance) error {
	var errs []error
	if s.scraped != nil {
		errs = append(errs, s.scraped.TCPListener.Close())
	}
	if s.listener != nil {
		// A server has closed it by now, unless it was not to.
		if err := from.closeListener(s.listener); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
