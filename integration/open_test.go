// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/nat"
)

// open opens an engine inside ns, without proxies and with a table that the test can
// change by nft(8). It is closed when the test ends, unless the test has done so.
func open(tb testing.TB, ns *lab.NS, o engine.Options) *engine.Engine {
	tb.Helper()
	o.NetNS = ns.Path()
	o.NoProxies = true
	o.NoOwner = true
	e, err := engine.Open(tb.Context(), o)
	require.NoError(tb, err)
	tb.Cleanup(func() {
		if err := e.Close(); err != nil && !errors.Is(err, nat.ErrClosed) {
			tb.Error(err)
		}
	})
	return e
}

// mapping parses the text of a mapping.
func mapping(t *testing.T, text string) nat.Mapping {
	t.Helper()
	m, err := nat.ParseMappingText(text)
	require.NoError(t, err)
	return m
}

func mappings(t *testing.T, texts ...string) []nat.Mapping {
	t.Helper()
	ms := make([]nat.Mapping, len(texts))
	for i, text := range texts {
		ms[i] = mapping(t, text)
	}
	return ms
}

// publish publishes mappings by their text form.
func publish(t *testing.T, e *engine.Engine, texts ...string) []nat.Mapping {
	t.Helper()
	done, err := e.Publish(t.Context(), nat.PublishOptions{}, mappings(t, texts...)...)
	require.NoError(t, err)
	return done
}

func unpublish(t *testing.T, e *engine.Engine, texts ...string) {
	t.Helper()
	_, err := e.Remove(t.Context(), nat.Removal{Mappings: mappings(t, texts...)})
	require.NoError(t, err)
}

// published returns the text of all mappings of an engine, with ranges collapsed.
func published(e *engine.Engine) []string { return texts(must(e.Mappings(context.Background()))) }

// collect returns all mappings of an engine, one for each port.
func collect(e *engine.Engine) []nat.Mapping { return must(e.Mappings(context.Background())) }

func texts(ms []nat.Mapping) []string {
	lines := []string{}
	for _, m := range nat.Collapse(ms) {
		lines = append(lines, m.String())
	}
	return lines
}

// logBuffer holds what an engine logs.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }
