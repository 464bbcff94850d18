// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// gone reads until the server has closed the connection.
func gone(t *testing.T, nc net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, nc)
	if err != nil {
		require.ErrorIs(t, err, syscall.ECONNRESET)
	}
}

// Clients beyond the number of connections wait until one ends: here because its header
// is late.
func TestConnectionsAreBounded(t *testing.T) {
	l := defaultLimits()
	l.conns, l.headerTime = 2, 50*time.Millisecond
	s := start(t, Options{Engine: newFake()}, l)
	silent, half := s.dial(t), s.dial(t)
	_, err := io.WriteString(half, "GET /v1/mappings HTTP/1.1\r\nHo")
	require.NoError(t, err)
	begin := time.Now()
	for range 10 { // one after another: each gives its slot back
		_, err := s.Mappings(t.Context())
		require.NoError(t, err)
	}
	require.GreaterOrEqual(t, time.Since(begin), 20*time.Millisecond)
	gone(t, silent)
	gone(t, half)
}

// Connections that are idle between two requests end, and so make room.
func TestIdleConnectionsEnd(t *testing.T) {
	l := defaultLimits()
	l.conns, l.idleTime = 1, 50*time.Millisecond
	s := start(t, Options{Engine: newFake()}, l)
	idle := s.dial(t)
	_, err := io.WriteString(idle, "GET /v1/mappings HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	resp, _ := answer(t, idle)
	require.Equal(t, 200, resp.StatusCode)
	_, err = s.Mappings(t.Context())
	require.NoError(t, err)
	gone(t, idle)
}

// 1,500 connections that say nothing, or half of something, keep others out only until
// they are late.
func TestHalfOpen(t *testing.T) {
	var most syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &most))
	if most.Cur < 3500 {
		t.Skipf("needs 3,500 descriptors, and may have %d", most.Cur)
	}
	l := defaultLimits()
	l.headerTime, l.bodyTime = 100*time.Millisecond, 100*time.Millisecond
	s := start(t, Options{Engine: newFake()}, l)
	starts := []string{"", "G", "GET /v1/mappings HTTP/1.1\r\nHost: x\r\n",
		"POST /v1/mappings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n["}
	var open []net.Conn
	for i := range 1500 {
		nc := s.dial(t)
		_, _ = io.WriteString(nc, starts[i%len(starts)]) // it may be closed already
		open = append(open, nc)
	}
	var wg sync.WaitGroup
	failures := make([]error, 8)
	for i := range failures {
		wg.Go(func() {
			for range 10 {
				if _, failures[i] = s.Mappings(t.Context()); failures[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	for _, err := range failures {
		require.NoError(t, err)
	}
	gone(t, open[0])
}

// Shutting down does not wait for a slot.
func TestShutdownOfAFullServer(t *testing.T) {
	l := defaultLimits()
	l.conns, l.headerTime = 1, time.Hour
	s := start(t, Options{Engine: newFake()}, l)
	first, second := s.dial(t), s.dial(t)
	require.NoError(t, s.stop())
	gone(t, first)
	gone(t, second)
}
