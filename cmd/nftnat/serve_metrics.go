// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// keptListener is one that outlives the servers on it, for another process may go on with
// it, or this one.
type keptListener struct{ *net.TCPListener }

// Accept returns net.ErrClosed after Close.
func (l *keptListener) Accept() (net.Conn, error) {
	c, err := l.TCPListener.Accept()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = net.ErrClosed
	}
	return c, err
}

// Close ends a server's use of the listener.
func (l *keptListener) Close() error { return l.SetDeadline(time.Unix(1, 0)) }

// listenForMetrics takes the listener of the daemon that is succeeded, if that has one at
// the address, or makes one.
func listenForMetrics(address string, from *inheritance) (*keptListener, error) {
	if l := from.metrics(address); l != nil {
		return l, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, usageError{fmt.Errorf("listen for metrics: %w", err)}
	}
	t, ok := l.(*net.TCPListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%T is no TCP listener", l), l.Close())
	}
	return &keptListener{t}, nil
}

// scrapePatience bounds the wait for requests that are on their way at the end, and for
// their answers.
const scrapePatience = time.Second

// healthTimeout bounds how long the engine may take to answer before it counts as not
// healthy.
const healthTimeout = 5 * time.Second

// health answers GET /healthz over TCP in plain text: 200, or 503 with the reason.
func health(check func(context.Context) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
		defer cancel()
		if err := check(ctx); err != nil {
			http.Error(w, "check health: "+oneLine(err.Error()), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n") // whoever has asked may have gone
	})
}

// serveMetrics answers GET /metrics and GET /healthz over TCP. Whoever it has let in is
// answered.
func serveMetrics(ctx context.Context, l *keptListener, metrics, health http.Handler) error {
	if err := l.SetDeadline(time.Time{}); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	mux.Handle("GET /healthz", health)
	var conns sync.WaitGroup
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				conns.Add(1)
			case http.StateClosed, http.StateHijacked:
				conns.Done()
			case http.StateActive, http.StateIdle:
			}
		},
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	var err error
	select {
	case err = <-served: // the listener failed; runAll ends the context
	case <-ctx.Done():
		if err = l.Close(); err != nil {
			_ = server.Close() // which ends it in any case
		}
		if serveErr := <-served; !errors.Is(serveErr, net.ErrClosed) && !errors.Is(serveErr, http.ErrServerClosed) {
			err = errors.Join(err, serveErr)
		}
	}
	// Not Shutdown, which drops a request that it meets on a connection without one.
	server.SetKeepAlivesEnabled(false)
	timer := time.AfterFunc(scrapePatience, func() { _ = server.Close() })
	defer timer.Stop()
	conns.Wait()
	return err
}
