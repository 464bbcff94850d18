// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/nftnat/nftnat/internal/printable"
)

// scrapeTimeout bounds the wait for the last requests and their answers when a server ends.
const scrapeTimeout = time.Second

// healthTimeout bounds how long the engine may take to answer before it counts as not
// healthy.
const healthTimeout = 5 * time.Second

// healthHandler answers GET /healthz over TCP in plain text: 200, or 503 with the reason.
func healthHandler(check func(context.Context) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
		defer cancel()
		if err := check(ctx); err != nil {
			http.Error(w, "check health: "+printable.Line(err.Error()), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n") // the client may have ended
	})
}

// serveMetrics answers GET /metrics and GET /healthz over TCP. All connections that were
// accepted get their answer.
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
	timer := time.AfterFunc(scrapeTimeout, func() { _ = server.Close() })
	defer timer.Stop()
	conns.Wait()
	return err
}
