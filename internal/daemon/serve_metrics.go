// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/nftnat/nftnat/internal/httpd"
	"github.com/nftnat/nftnat/internal/printable"
)

// scrapeTimeout bounds the wait for the last requests and their answers when a server ends.
const scrapeTimeout = time.Second

// scrapeTime bounds how long a client may take to read an answer.
const scrapeTime = 30 * time.Second

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
func serveMetrics(ctx context.Context, l *keptListener, metrics, health http.Handler, log *slog.Logger) error {
	if err := l.SetDeadline(time.Time{}); err != nil {
		return err
	}
	server := httpd.New(httpd.Options{
		Handler: scraped(metrics, health), BodyTimeout: 10 * time.Second, WriteTimeout: scrapeTime, MaxHeader: 16 << 10, Log: log,
	})
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	var err error
	select {
	case err = <-served: // the listener failed; runAll ends the context
	case <-ctx.Done():
		server.Stop()
		if err = l.Close(); err != nil {
			server.Close()
			break
		}
		if serveErr := <-served; !errors.Is(serveErr, net.ErrClosed) {
			err = serveErr
		}
	}
	ending, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	server.AwaitRequests(ending)
	if server.Shutdown(ending) != nil {
		server.Close()
		_ = server.Shutdown(context.Background())
	}
	return err
}

// scraped finds what answers a path.
func scraped(metrics, health http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var h http.Handler
		switch r.URL.Path {
		case "/metrics":
			h = metrics
		case "/healthz":
			h = health
		default:
			http.Error(w, "404 page not found", http.StatusNotFound)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
			return
		}
		h.ServeHTTP(w, r)
	})
}
