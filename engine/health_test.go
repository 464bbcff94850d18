// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

func TestHealth(t *testing.T) {
	e, b := openFake(t)
	require.NoError(t, e.Health(t.Context()), "nothing is published yet")
	publish(t, e, "80->172.30.0.2:80")
	before := b.kernel.Dump()
	require.NoError(t, e.Health(t.Context()))

	// While a change goes on there is no answer, and the wait for one is bounded.
	e.mu.Lock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, e.Health(ctx), context.Canceled)
	e.mu.Unlock()
	require.NoError(t, e.Health(t.Context()))

	refusal := errors.New("no answer")
	b.kernel.Hook(func(op string) error {
		if op == "Table" {
			return refusal
		}
		return nil
	})
	require.ErrorIs(t, e.Health(t.Context()), refusal)
	b.kernel.Hook(nil)
	require.Equal(t, before, b.kernel.Dump(), "a look changes nothing")

	require.NoError(t, b.kernel.Conn().DeleteTable(DefaultTable))
	require.ErrorIs(t, e.Health(t.Context()), fs.ErrNotExist)
	require.NoError(t, e.Close())
	require.ErrorIs(t, e.Health(t.Context()), nat.ErrClosed)
}

// What fails for other reasons than the caller's is counted.
func TestFailures(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "80->172.30.0.2:80")
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "80->172.30.0.3:80"))
	require.ErrorIs(t, err, nat.ErrConflict)
	require.Zero(t, failuresOf(e), "a conflict is the caller's")
	b.kernel.Hook(func(op string) error {
		if op == "Update" {
			return errors.New("no")
		}
		return nil
	})
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "81->172.30.0.3:80"))
	require.Error(t, err)
	require.Equal(t, Failures{Changes: 1}, failuresOf(e))
	b.kernel.Hook(func(string) error { return errors.New("no") })
	_, err = e.checkTable()
	require.Error(t, err)
	b.kernel.Hook(nil)
	_, err = e.checkTable()
	require.NoError(t, err)
	require.Equal(t, Failures{Changes: 1, Repairs: 1}, failuresOf(e))
}

// failuresOf is what Status says of failures, on a host that has no sysctls.
func failuresOf(e *Engine) Failures {
	st, _ := e.Status(context.Background())
	return st.Failures
}
