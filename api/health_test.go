// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

func TestHealth(t *testing.T) {
	var is error
	s := start(t, Options{Engine: newFake(), Health: func(context.Context) error { return is }}, defaultLimits())
	require.NoError(t, s.Health(t.Context()))
	resp, body := s.do(t, "GET", "/healthz", "", "")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "ok\n", body)
	resp, body = s.do(t, "HEAD", "/healthz", "", "")
	require.Equal(t, 200, resp.StatusCode)
	require.Empty(t, body)

	is = nat.ErrClosed
	require.ErrorIs(t, s.Health(t.Context()), nat.ErrClosed)
	is = errors.Join(fs.ErrNotExist, errors.New("another line"))
	err := s.Health(t.Context())
	require.EqualError(t, err, "check health: file does not exist; another line")
	var p *Problem
	require.ErrorAs(t, err, &p)
	require.Equal(t, 503, p.Status)
}

// An engine that does not answer is not healthy.
func TestHealthIsBounded(t *testing.T) {
	l := defaultLimits()
	l.healthTime = 10 * time.Millisecond
	s := start(t, Options{Engine: newFake(), Health: func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}}, l)
	resp, body := s.do(t, "GET", "/healthz", "", "")
	require.Equal(t, 503, resp.StatusCode, body)
}
