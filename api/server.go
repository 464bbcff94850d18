// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Server answers requests on a unix socket.
type Server struct {
	handler *handler
}

// NewServer returns a server of an engine; opts.Engine is required.
func NewServer(opts Options) *Server { return newServer(opts, defaultLimits()) }

func newServer(opts Options, l limits) *Server {
	return &Server{handler: newHandler(opts, l)}
}

// Serve answers on a listener, of [Listen] or handed over by systemd, until ctx is
// done or the listener fails. It closes the listener, which must accept
// [*net.UnixConn]s.
//
// When ctx is done, streams of events end, requests that are under way are answered for up
// to 5 s, and then all connections are closed. The error is nil unless the listener failed,
// or the engine did not return from a request for 5 s more.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return s.ServeUntil(ctx, l, nil)
}

// ServeUntil is like Serve, but also ends, without an error, when leave is closed. It then
// leaves the listener open, so that another process serves the clients in its queue.
// Clients that were accepted have a second to send their requests, and these are
// answered for up to 2 minutes.
func (s *Server) ServeUntil(ctx context.Context, l net.Listener, leave <-chan struct{}) error {
	if network := l.Addr().Network(); network != "unix" {
		return errors.Join(
			fmt.Errorf("serve %s: who a client is can only be asked of a unix socket, and this is %s", l.Addr(), network),
			l.Close())
	}
	ctx, cancel := context.WithCancel(ctx) // for the requests, also when the listener fails
	defer cancel()
	r := &run{listener: newConnections(l, s.handler.limits.conns), served: make(chan error, 1), log: s.handler.Log}
	h := s.handler
	r.http = &http.Server{
		Handler:           h,
		ReadHeaderTimeout: h.limits.headerTime,
		IdleTimeout:       h.limits.idleTime,
		MaxHeaderBytes:    h.limits.header,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withConn,
		ConnState:         r.follow,
		ErrorLog:          slog.NewLogLogger(h.Log.Handler(), slog.LevelWarn),
		// "OPTIONS *" is refused like every unknown path.
		DisableGeneralOptionsHandler: true,
	}
	go func() { r.served <- r.http.Serve(r.listener) }()
	var failure error
	serving, timeout := true, s.handler.limits.drainTime
	select {
	case failure = <-r.served:
		serving = false
	case <-ctx.Done():
	case <-leave:
		failure = r.listener.leave(r.served, s.handler.limits.departure)
		serving, timeout = false, s.handler.limits.leaveTime
	}
	cancel()
	if err := r.shutdown(timeout, serving); err != nil || failure != nil {
		return fmt.Errorf("serve %s: %w", l.Addr(), errors.Join(failure, err))
	}
	return nil
}

// run is one call of Serve.
type run struct {
	listener *connections
	http     *http.Server
	served   chan error
	log      *slog.Logger
	// running are the goroutines of connections.
	running sync.WaitGroup
}

// follow is http.Server.ConnState. It is called for a new connection before its goroutine
// starts, and for a closed one at the goroutine's end.
func (r *run) follow(nc net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		r.running.Add(1)
	case http.StateClosed, http.StateHijacked:
		r.running.Done()
	case http.StateIdle:
		if c, ok := nc.(*conn); ok {
			c.setBusy(false)
		}
	case http.StateActive: // also after half a header
	}
}

// shutdown ends everything that Serve has started and waits for it.
func (r *run) shutdown(timeout time.Duration, serving bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := r.listener.Close(); err != nil {
		r.log.Warn("close socket", "error", err)
	}
	if serving {
		if err := <-r.served; !errors.Is(err, net.ErrClosed) {
			r.log.Warn("serve", "error", err)
		}
	}
	r.listener.closeSilent()
	if err := r.http.Shutdown(ctx); err != nil {
		r.log.Warn("closed connections with requests under way", "error", err)
		_ = r.http.Close()
	}
	ended := make(chan struct{})
	go func() {
		r.running.Wait()
		close(ended)
	}()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-ended:
		return nil
	case <-timer.C:
		return errors.New("requests are still under way")
	}
}
