// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// withContext are the methods that take a context, by name.
func withContext(t *testing.T, e *Engine, ep *Endpoint) map[string]func(context.Context) error {
	t.Helper()
	m, n := nattest.Mapping(t, "90->172.30.0.2:90"), netOf(t, "second", "10.1.0.0/24")
	err := func(_ any, err error) error { return err }
	return map[string]func(context.Context) error{
		"Publish":       func(ctx context.Context) error { return err(e.Publish(ctx, nat.PublishOptions{}, m)) },
		"Remove":        func(ctx context.Context) error { return err(e.Remove(ctx, nat.Removal{Name: "web"})) },
		"Apply":         func(ctx context.Context) error { return err(e.Apply(ctx, m)) },
		"ApplyState":    func(ctx context.Context) error { return err(e.ApplyState(ctx, nat.State{})) },
		"CreateNetwork": func(ctx context.Context) error { return err(e.CreateNetwork(ctx, n)) },
		"RemoveNetwork": func(ctx context.Context) error { return e.RemoveNetwork(ctx, "empty") },
		"Attach":        func(ctx context.Context) error { return err(e.Attach(ctx, endpointSpec(t, "dns", "inside", "53"))) },
		"Detach":        func(ctx context.Context) error { return err(e.Detach(ctx, "web")) },
		"Release":       ep.Release,
		"Purge":         e.Purge,
		"Suspend":       func(ctx context.Context) error { return err(e.Suspend(ctx)) },
		"Diff":          func(ctx context.Context) error { return err(e.Diff(ctx)) },
		"DiffState":     func(ctx context.Context) error { return err(e.DiffState(ctx, nat.State{})) },
		"Mappings":      func(ctx context.Context) error { return err(e.Mappings(ctx)) },
		"State":         func(ctx context.Context) error { return err(e.State(ctx)) },
		"Network":       func(ctx context.Context) error { return err(e.Network(ctx, "inside")) },
		"Networks":      func(ctx context.Context) error { return err(e.Networks(ctx)) },
		"Endpoint":      func(ctx context.Context) error { return err(e.Endpoint(ctx, "web")) },
		"Endpoints":     func(ctx context.Context) error { return err(e.Endpoints(ctx)) },
		"Status":        func(ctx context.Context) error { return err(e.Status(ctx)) },
		"Connections":   func(ctx context.Context) error { return err(e.Connections(ctx)) },
		"Health":        e.Health,
		"Resume":        e.Resume,
		"values Attach": func(ctx context.Context) error {
			return err(Values{e}.Attach(ctx, endpointSpec(t, "dns", "inside", "53")))
		},
	}
}

// A context that is done leaves everything as it is, also while somebody else has the lock.
func TestContextDone(t *testing.T) {
	e, b := openFake(t)
	create(t, e, "inside", inside4)
	create(t, e, "empty", "10.2.0.0/24")
	ep := attach(t, e, "web", "inside", "80")
	before := b.kernel.Dump()
	for name, call := range withContext(t, e, ep) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, call(ctx), context.Canceled, name)

		e.mu.Lock()
		ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
		require.ErrorIs(t, call(ctx), context.DeadlineExceeded, name)
		cancel()
		e.mu.Unlock()
		require.Equal(t, before, b.kernel.Dump(), name)
	}
	requireConsistent(t, b, e)
}

// A context that is done during a change ends it, and undoes it, until the table changes.
func TestContextDoneDuringChange(t *testing.T) {
	for _, name := range []string{"Publish", "Apply", "ApplyState", "CreateNetwork", "RemoveNetwork", "Attach", "Detach", "Release", "Remove"} {
		for _, step := range []string{"reserve", "commit", "flows"} {
			e, b := openFake(t)
			create(t, e, "inside", inside4)
			create(t, e, "empty", "10.2.0.0/24")
			ep := attach(t, e, "web", "inside", "80")
			before := b.snapshot(e)
			ctx, cancel := context.WithCancel(t.Context())
			seen := false
			e.core.opts.Trace = func(s string) {
				if s == step {
					seen = true
					cancel()
				}
			}
			err := withContext(t, e, ep)[name](ctx)
			cancel()
			e.core.opts.Trace = func(string) {}
			if !seen || step == "flows" {
				require.NoError(t, err, "%s at %s", name, step)
				continue
			}
			require.ErrorIs(t, err, context.Canceled, "%s at %s", name, step)
			require.Equal(t, before, b.snapshot(e), "%s at %s", name, step)
			requireConsistent(t, b, e)
		}
	}
}

// A call that is repeated because others keep changing the table ends with its context.
func TestContextEndsRetries(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "80->172.30.0.2:80")
	ctx, cancel := context.WithCancel(t.Context())
	attempts := 0
	b.kernel.Hook(func(op string) error {
		if op == "Update" {
			if attempts++; attempts == 2 {
				cancel()
			}
			return nft.ErrStale
		}
		return nil
	})
	_, err := e.Publish(ctx, nat.PublishOptions{}, nattest.Mapping(t, "81->172.30.0.2:80"))
	require.Error(t, err)
	require.LessOrEqual(t, attempts, 2)
	b.kernel.Hook(nil)
	require.True(t, slices.Equal([]string{"80->172.30.0.2:80"}, publishedBy(e)))
	requireConsistent(t, b, e)
}

func TestReportOfAContext(t *testing.T) {
	e, _ := openFake(t)
	m := nattest.Mapping(t, "80->172.30.0.2:80")
	r := nat.Report{Unchanged: true, Notes: []string{"of a call before"}}
	ctx := nat.WithReport(t.Context(), &r)
	require.Same(t, &r, nat.ReportFrom(ctx))
	require.Nil(t, nat.ReportFrom(t.Context()))
	_, err := e.Publish(ctx, nat.PublishOptions{}, m)
	require.NoError(t, err)
	require.False(t, r.Unchanged)
	_, err = e.Publish(ctx, nat.PublishOptions{Kill: true}, m)
	require.ErrorIs(t, err, nat.ErrInvalid)
	require.Equal(t, nat.Report{}, r, "empty after an error")
}

// An endpoint that is attached is returned, also if the context was done after the
// transaction.
func TestAttachedValue(t *testing.T) {
	e, _ := openFake(t)
	create(t, e, "inside", inside4)
	ctx, cancel := context.WithCancel(t.Context())
	e.core.opts.Trace = func(s string) {
		if s == "flows" {
			cancel()
		}
	}
	ep, err := Values{e}.Attach(ctx, endpointSpec(t, "web", "inside", "80"))
	require.NoError(t, err)
	require.Equal(t, "web", ep.Name)
	require.Len(t, ep.Mappings, 1)
}

// What proxies log in goroutines of their own is in no report: nothing orders it with
// the calls.
func TestProxiesAreNotReported(t *testing.T) {
	e, _ := openFake(t)
	var report nat.Report
	e.core.noted.Store(&report)
	holderOptions(e.core).PipeFailed(context.Canceled)
	e.core.noted.Store(nil)
	require.Empty(t, report.Notes)
}
