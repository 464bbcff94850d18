// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package httpd

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Options configure a Server. For a zero field the default in its comment applies.
type Options struct {
	// Handler answers requests. It is required.
	Handler http.Handler
	// HeaderTimeout is how long a client may take to send a header, from its first byte, or for
	// the first one from the connection. 5 s.
	HeaderTimeout time.Duration
	// IdleTimeout is how long a connection may be without a request after an answer. 1 min.
	IdleTimeout time.Duration
	// BodyTimeout is how long a client may take to send a body. No limit: the handler sets one by
	// http.ResponseController.
	BodyTimeout time.Duration
	// WriteTimeout is how long a client may take to read an answer, from the request. No limit:
	// the handler sets one by http.ResponseController.
	WriteTimeout time.Duration
	// MaxHeader is how many bytes a request line and its fields may have. 8 KiB.
	MaxHeader int
	// MaxBody is how many bytes a body may have. No limit. A body that is announced as larger is
	// refused, and of another one the rest is not read: the handler gets an *http.MaxBytesError.
	MaxBody int64
	// MaxConns is how many connections there may be at once; further clients wait in the kernel's
	// queue. 256.
	MaxConns int
	// Context returns the parent of the contexts of a connection's requests, and is called before
	// the first. context.Background.
	Context func(net.Conn) context.Context
	// Log gets panics of the handler, its mistakes, and failures to accept a connection. Nothing is
	// logged.
	Log *slog.Logger
}

// withDefaults returns the options with the defaults of zero fields.
func (o Options) withDefaults() Options {
	o.HeaderTimeout = cmp.Or(o.HeaderTimeout, 5*time.Second)
	o.IdleTimeout = cmp.Or(o.IdleTimeout, time.Minute)
	o.MaxHeader = cmp.Or(o.MaxHeader, 8<<10)
	o.MaxConns = cmp.Or(o.MaxConns, 256)
	if o.Context == nil {
		o.Context = func(net.Conn) context.Context { return context.Background() }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Server serves connections.
type Server struct {
	Options
	slots chan struct{} // has an element for each connection
	ended chan struct{} // closed by Stop
	// Readers of MaxHeader bytes, writers, and slices of sizeBody.
	readers, writers, bodies sync.Pool

	mu      sync.Mutex
	conns   map[*conn]struct{}
	stopped bool          // no connection is accepted
	closing bool          // no request is begun
	changed chan struct{} // closed at the next change of conns, if anybody waits for one
}

// New returns a server.
func New(o Options) *Server {
	o = o.withDefaults()
	s := &Server{Options: o, slots: make(chan struct{}, o.MaxConns), ended: make(chan struct{}), conns: map[*conn]struct{}{}}
	s.readers.New = func() any { return bufio.NewReaderSize(nil, o.MaxHeader) }
	s.writers.New = func() any { return bufio.NewWriter(nil) }
	s.bodies.New = func() any { return new([sizeBody]byte) }
	return s
}

// Pauses after a connection could not be accepted.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = time.Second
)

// Serve serves the connections of a listener, in goroutines that outlive it, and returns when the
// listener fails, with the error, or is closed, or fails after Stop: then with net.ErrClosed. It
// does not close the listener.
func (s *Server) Serve(l net.Listener) error {
	pause := firstPause
	for {
		select {
		case s.slots <- struct{}{}:
		case <-s.ended:
		}
		if s.hasEnded() {
			return net.ErrClosed
		}
		nc, err := l.Accept()
		if err == nil {
			pause = firstPause
			s.start(nc)
			continue
		}
		<-s.slots
		if s.hasEnded() {
			return net.ErrClosed
		}
		// Of package net: as for ECONNABORTED and EMFILE.
		var passing interface{ Temporary() bool }
		if !errors.As(err, &passing) || !passing.Temporary() {
			return err
		}
		s.Log.Warn("no connection could be accepted", "error", err, "retry", pause)
		select {
		case <-time.After(pause):
			pause = min(2*pause, lastPause)
		case <-s.ended:
			return net.ErrClosed
		}
	}
}

func (s *Server) hasEnded() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// start serves a connection, for which there is a slot.
func (s *Server) start(nc net.Conn) {
	c := &conn{server: s, nc: nc}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = struct{}{}
	if s.closing {
		_ = nc.Close() // its goroutine ends
	}
	go c.serve()
}

// remove forgets a connection, and makes room for another one. Removing again does nothing.
func (s *Server) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.conns[c]; ok {
		delete(s.conns, c)
		<-s.slots
		s.notify()
	}
}

// notify wakes those who wait for a change. The caller holds s.mu.
func (s *Server) notify() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// wait returns when done, which is called with s.mu held, returns true, or with the error of ctx.
func (s *Server) wait(ctx context.Context, done func() bool) error {
	for {
		s.mu.Lock()
		if done() {
			s.mu.Unlock()
			return nil
		}
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Stop accepts no more connections: when Accept returns the next time, so does Serve. The caller
// closes the listener, or sets its deadline. Those that were accepted are served.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped {
		s.stopped = true
		close(s.ended)
	}
}

// AwaitRequests returns when all connections have sent a request, or ctx is done.
func (s *Server) AwaitRequests(ctx context.Context) {
	_ = s.wait(ctx, func() bool {
		for c := range s.conns {
			if !c.asked {
				return false
			}
		}
		return true
	})
}

// Shutdown stops, closes the connections without a request, and those with one when it is
// answered. It returns when the goroutines of all have ended, or with the error of ctx. It may be
// called again. Connections that were hijacked are not the server's.
func (s *Server) Shutdown(ctx context.Context) error {
	s.Stop()
	s.mu.Lock()
	s.closing = true
	for c := range s.conns {
		if !c.busy {
			_ = c.nc.Close() // its goroutine ends
		}
	}
	s.mu.Unlock()
	return s.wait(ctx, func() bool { return len(s.conns) == 0 })
}

// Close stops, and closes all connections. It does not wait for the handler.
func (s *Server) Close() {
	s.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	for c := range s.conns {
		_ = c.nc.Close() // its goroutine ends
	}
}

// begin marks a connection as one with a request, unless the server is closing.
func (s *Server) begin(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	c.busy = true
	if !c.asked {
		c.asked = true
		s.notify()
	}
	return true
}

// finish marks a connection as one without a request, unless the server is closing.
func (s *Server) finish(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.busy = false
	return !s.closing
}

// isClosing reports whether connections end with their answer.
func (s *Server) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}
