// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// calls are the methods that change something, by name.
func calls(t *testing.T, e *Engine) map[string]func() error {
	t.Helper()
	m := nattest.Mapping(t, "80->172.30.0.2:80")
	second := func(_ any, err error) error { return err }
	return map[string]func() error{
		"Publish":   func() error { return second(e.Publish(t.Context(), nat.PublishOptions{}, m)) },
		"Replace":   func() error { return second(e.Publish(t.Context(), nat.PublishOptions{Replace: true}, m)) },
		"Unpublish": func() error { return second(e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{m}})) },
		"Kill": func() error {
			return second(e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{m}, Kill: true}))
		},
		"Apply": func() error { return second(e.Apply(t.Context())) },
		"Purge": func() error { return e.Purge(t.Context()) },
	}
}

func TestClosed(t *testing.T) {
	for name, end := range map[string]func(*Engine) error{"close": (*Engine).Close, "purge": func(e *Engine) error { return e.Purge(t.Context()) }} {
		e, b := openFake(t)
		publish(t, e, "80->172.30.0.2:80")
		before := b.kernel.Dump()
		require.NoError(t, end(e), name)
		if name == "close" {
			require.Equal(t, before, b.kernel.Dump(), "Close leaves the table at work")
		} else {
			require.Empty(t, b.kernel.Dump(), "Purge leaves nothing")
		}
		before = b.kernel.Dump()
		for method, call := range calls(t, e) {
			require.ErrorIs(t, call(), nat.ErrClosed, "%s after %s", method, name)
		}
		_, err := e.Diff(t.Context())
		require.ErrorIs(t, err, nat.ErrClosed)
		require.ErrorIs(t, e.Close(), nat.ErrClosed)
		_, err = e.Mappings(t.Context())
		require.ErrorIs(t, err, nat.ErrClosed)
		require.Equal(t, before, b.kernel.Dump())
		require.Equal(t, 1, b.flows.closed)
	}
}

func TestReadOnly(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "80->172.30.0.2:80")
	r := b.openWith(t, Options{ReadOnly: true})
	before := b.kernel.Dump()
	for method, call := range calls(t, r) {
		require.ErrorIs(t, call(), nat.ErrReadOnly, method)
	}
	require.Equal(t, []string{"80->172.30.0.2:80"}, publishedBy(r))
	changes, err := r.Diff(t.Context(), nattest.Mapping(t, "81->172.30.0.2:80"))
	require.NoError(t, err)
	require.Equal(t, []string{"- 80->172.30.0.2:80", "+ 81->172.30.0.2:80"}, linesOf(changes))
	require.Equal(t, before, b.kernel.Dump())
	require.NoError(t, r.Close())
	require.ErrorIs(t, r.Close(), nat.ErrClosed)
	for method, call := range calls(t, r) {
		require.ErrorIs(t, call(), nat.ErrClosed, method)
	}
}

func TestReadOnlyWithoutTable(t *testing.T) {
	b := newTestbed()
	r := b.openWith(t, Options{ReadOnly: true})
	require.Empty(t, publishedBy(r))
	require.NoError(t, r.Close())
	require.Empty(t, b.kernel.Dump())
}

func TestPurge(t *testing.T) {
	t.Run("of nothing", func(t *testing.T) {
		e, b := openFake(t)
		require.NoError(t, e.Purge(t.Context()))
		require.Empty(t, b.kernel.Dump())
	})
	t.Run("of what is gone already", func(t *testing.T) {
		e, b := openFake(t)
		publish(t, e, "80->172.30.0.2:80")
		b.kernel.Flush()
		require.NoError(t, e.Purge(t.Context()))
	})
	t.Run("of one table of several", func(t *testing.T) {
		e, b := openFake(t)
		other := b.openWith(t, Options{Table: "other", NoSysctl: true})
		publish(t, e, "80->172.30.0.2:80")
		publish(t, other, "80->172.30.0.3:80")
		require.NoError(t, e.Purge(t.Context()))
		require.Equal(t, []string{"80->172.30.0.3:80"}, publishedBy(b.openWith(t, Options{Table: "other"})))
	})
	t.Run("refused", func(t *testing.T) {
		e, b := openFake(t)
		publish(t, e, "80->172.30.0.2:80")
		b.kernel.FailNext("DeleteTable", &nft.OpError{Op: "delete table", Object: "inet nftnat", Err: unix.EPERM})
		require.ErrorIs(t, e.Purge(t.Context()), unix.EPERM)
		require.Equal(t, []string{"80->172.30.0.2:80"}, publishedBy(e), "it is still open")
		publish(t, e, "81->172.30.0.2:80")
		requireConsistent(t, b, e)
		require.NoError(t, e.Purge(t.Context()))
		require.Empty(t, b.kernel.Dump())
	})
	t.Run("without flows", func(t *testing.T) {
		e, b := openFake(t)
		publish(t, e, "53->172.30.0.2:53/udp")
		cause := errors.New("no conntrack here")
		b.flows.hook = func(string) error { return cause }
		require.ErrorIs(t, e.Purge(t.Context()), cause)
		require.Empty(t, b.kernel.Dump(), "the table is gone all the same")
		_, err := e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "80->172.30.0.2:80"))
		require.ErrorIs(t, err, nat.ErrClosed, "and does not come back")
	})
}

// Another process has the lock after Leave: the engine cannot go on.
func TestResumeAfterLeave(t *testing.T) {
	e, _ := openFake(t)
	_, err := e.Suspend(t.Context())
	require.NoError(t, err)
	require.NoError(t, e.Leave())
	require.ErrorIs(t, e.Leave(), nat.ErrClosed)
	require.ErrorIs(t, e.Resume(t.Context()), nat.ErrClosed)
	require.NoError(t, e.Shutdown(t.Context()))
	require.ErrorIs(t, e.Shutdown(t.Context()), nat.ErrClosed)
}
