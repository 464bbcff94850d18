// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package igd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const (
	// timeout is how long a client may take for a header, a body, and the answer.
	timeout = 5 * time.Second
	// goodbye is how long requests under way may take at the end.
	goodbye   = 2 * time.Second
	maxHeader = 8 << 10
)

// serve answers requests until ctx is done. It closes the listener, which bounds the connections.
func (s *Server) serve(ctx context.Context) error {
	h := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: timeout,
		ReadTimeout:       timeout,
		WriteTimeout:      2 * timeout,
		IdleTimeout:       timeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- h.Serve(s.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve requests: %w", errors.Join(err, s.listener.Close()))
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer cancel()
	if h.Shutdown(end) != nil { // those that are not answered by then never are
		_ = h.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("serve requests: %w", err)
	}
	return nil
}
