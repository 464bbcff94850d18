// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/portset"
)

// logged collects a log.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

// busyPort opens an engine on a mapping of a loopback port that another socket has, which
// it returns to be closed.
func busyPort(t *testing.T) (*Engine, *testbed, *logged, net.Listener) {
	t.Helper()
	other, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = other.Close() })
	b, log := newTestbed(), &logged{}
	publish(t, b.open(t), fmt.Sprintf("%s->172.30.0.2:80", other.Addr()))
	e := b.openWith(t, Options{NoSysctl: true, Log: slog.New(slog.NewTextHandler(log, nil))})
	holdPorts(t, e)
	e.core.holder.Sync(&e.core.mappings)
	return e, b, log, other
}

// A port that another process has is tried again after a second, and then less and less
// often, until it is free.
func TestUnservedIsRetried(t *testing.T) {
	e, b, log, other := busyPort(t)
	require.Equal(t, 1, log.count("mapping has no proxy"))
	for _, want := range []time.Duration{1, 1, 2, 4, 8, 16, 30, 30} {
		next, ok := e.expire()
		require.True(t, ok)
		require.Equal(t, want*time.Second, next)
		require.Empty(t, proxiesOf(e))
		b.clock.advance(next - time.Millisecond)
		early, _ := e.expire()
		require.Equal(t, time.Millisecond, early, "an attempt came too soon")
		b.clock.advance(time.Millisecond)
	}
	require.NoError(t, other.Close())
	_, ok := e.expire()
	require.False(t, ok, "there is nothing left to try")
	require.Len(t, proxiesOf(e), 1)
	require.Equal(t, 1, log.count("mapping is served now"))
	require.Equal(t, 1, log.count("mapping has no proxy"))
	e.core.holder.Sync(&e.core.mappings)
	require.Equal(t, 1, log.count("mapping is served now"))
}

// After any change Run tries again at once.
func TestUnservedIsRetriedAtOnce(t *testing.T) {
	e, b, _, other := busyPort(t)
	for range 6 {
		next, _ := e.expire()
		b.clock.advance(next)
	}
	next, _ := e.expire()
	require.Equal(t, 30*time.Second, next)
	require.NoError(t, other.Close())
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = e.Run(ctx) })
	defer running.Wait()
	defer cancel()
	publish(t, e, "127.0.0.1:18090->172.30.0.2:80")
	require.Eventually(t, func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return len(proxiesOf(e)) == 2
	}, time.Minute, time.Millisecond)
}

// A port that is no longer published is not tried again.
func TestUnservedIsUnpublished(t *testing.T) {
	for _, end := range []func(*Engine) error{
		applies(),
		func(e *Engine) error { e.core.mappings = portset.NewSet(); return nil }, // as when the table was emptied
	} {
		e, b, log, other := busyPort(t)
		require.NoError(t, end(e))
		require.NoError(t, other.Close())
		b.clock.advance(time.Hour)
		_, ok := e.expire()
		require.False(t, ok)
		require.Empty(t, maps.Collect(e.core.holder.All))
		require.Zero(t, log.count("mapping is served now"))
	}
}
