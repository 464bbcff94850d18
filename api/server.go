// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/nftnat/nftnat/internal/httpd"
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
	h := s.handler
	server := httpd.New(httpd.Options{
		Handler:       h,
		HeaderTimeout: h.limits.headerTime,
		IdleTimeout:   h.limits.idleTime,
		MaxHeader:     h.limits.header,
		MaxConns:      h.limits.conns,
		Context:       func(nc net.Conn) context.Context { return withConn(ctx, nc, l.Addr().String()) },
		Log:           h.Log,
	})
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	var failure error
	serving, timeout := true, h.limits.drainTime
	select {
	case failure = <-served:
		serving = false
	case <-ctx.Done():
	case <-leave:
		failure = left(server, l, served, h.limits.departure)
		serving, timeout = false, h.limits.leaveTime
	}
	cancel()
	server.Stop()
	if serving || failure != nil {
		if err := l.Close(); err != nil {
			h.Log.Warn("close socket", "error", err)
		}
	}
	if serving {
		if err := <-served; !errors.Is(err, net.ErrClosed) {
			h.Log.Warn("serve", "error", err)
		}
	}
	if err := end(server, timeout, h.Log); err != nil || failure != nil {
		return fmt.Errorf("serve %s: %w", l.Addr(), errors.Join(failure, err))
	}
	return nil
}

// left leaves a listener to another process: it waits until the server has stopped, and then for
// the first request of each connection, up to timeout.
//
// A listener can be open in two processes at once (unix(7), SCM_RIGHTS). They share the queue
// of connections that neither has accepted, so that no client is refused.
func left(server *httpd.Server, l net.Listener, served <-chan error, timeout time.Duration) error {
	d, ok := l.(interface{ SetDeadline(t time.Time) error })
	if !ok {
		return fmt.Errorf("%T cannot be left to others", l)
	}
	server.Stop()
	if err := d.SetDeadline(time.Unix(1, 0)); err != nil {
		return err
	}
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	server.AwaitRequests(ctx)
	// This process may serve it again.
	return d.SetDeadline(time.Time{})
}

// end waits until all requests are answered, up to timeout, and as long again when their
// connections are closed.
func end(server *httpd.Server, timeout time.Duration, log *slog.Logger) error {
	err := shutdown(server, timeout)
	if err == nil {
		return nil
	}
	log.Warn("closed connections with requests under way", "error", err)
	server.Close()
	if shutdown(server, timeout) != nil {
		return errors.New("requests are still under way")
	}
	return nil
}

func shutdown(server *httpd.Server, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return server.Shutdown(ctx)
}
