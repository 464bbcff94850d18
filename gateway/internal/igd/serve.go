// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package igd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/nftnat/nftnat/internal/httpd"
)

const (
	maxConns = 64 // of which a host has few; others wait in the kernel's queues
	// timeout is how long a client may take for a header, a body, and the answer.
	timeout = 5 * time.Second
	// goodbye is how long requests under way may take at the end.
	goodbye = 2 * time.Second
)

// serve answers requests until ctx is done. It closes the listener.
func (s *Server) serve(ctx context.Context) error {
	h := httpd.New(httpd.Options{
		Handler:       s,
		HeaderTimeout: timeout,
		IdleTimeout:   timeout,
		BodyTimeout:   timeout,
		WriteTimeout:  timeout,
		MaxBody:       maxBody,
		MaxConns:      maxConns,
		Log:           s.log,
	})
	stop := context.AfterFunc(ctx, func() { _ = s.listener.Close() })
	err := h.Serve(s.listener)
	if stop() { // it has failed by itself
		err = errors.Join(err, s.listener.Close())
	} else if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer cancel()
	if h.Shutdown(end) != nil { // those that are not answered by then never are
		h.Close()
	}
	if err != nil {
		return fmt.Errorf("serve requests: %w", err)
	}
	return nil
}
