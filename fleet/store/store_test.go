// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func put(t *testing.T, s *store.Store, key, value string, opts ...clientv3.OpOption) int64 {
	t.Helper()
	ok, rev, err := s.Commit(t.Context(), nil, clientv3.OpPut(s.Key(key), value, opts...))
	require.NoError(t, err)
	require.True(t, ok)
	return rev
}

func TestListInPages(t *testing.T) {
	s := etcd(t)
	const n = 1203
	for i := 0; i < n; i += 100 {
		var ops []clientv3.Op
		for j := i; j < min(i+100, n); j++ {
			ops = append(ops, clientv3.OpPut(s.Key(fmt.Sprintf("a/%04d", j)), "x"))
		}
		ok, _, err := s.Commit(t.Context(), nil, ops...)
		require.NoError(t, err)
		require.True(t, ok)
	}
	rev := put(t, s, "b", "other")
	snap, err := s.List(t.Context(), "a/")
	require.NoError(t, err)
	require.Equal(t, rev, snap.Revision)
	require.Len(t, snap.Entries, n)
	for i, e := range snap.Entries {
		require.Equal(t, fmt.Sprintf("a/%04d", i), e.Key)
	}
	_, found, _, err := s.Get(t.Context(), "a")
	require.NoError(t, err)
	require.False(t, found)
}

// follow collects updates; what it is told is read from the channel.
func follow(t *testing.T, s *store.Store, prefix string) <-chan store.Update {
	t.Helper()
	updates := make(chan store.Update, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Follow(ctx, prefix, func(u store.Update) error { updates <- u; return nil })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return updates
}

func next(t *testing.T, updates <-chan store.Update) store.Update {
	t.Helper()
	select {
	case u := <-updates:
		return u
	case <-time.After(labtest.Stretch(30 * time.Second)):
		require.FailNow(t, "no update")
		return store.Update{}
	}
}

func TestFollow(t *testing.T) {
	s := etcd(t)
	first := put(t, s, "a/1", "x")
	put(t, s, "b/1", "x")
	updates := follow(t, s, "a/")
	u := next(t, updates)
	require.True(t, u.Whole)
	require.Equal(t, []store.Entry{{Key: "a/1", Value: "x", Created: first, Modified: first}}, u.Entries)

	ok, rev, err := s.Commit(t.Context(), []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(s.Key("a/1")), "=", first)},
		clientv3.OpPut(s.Key("a/2"), "y"), clientv3.OpDelete(s.Key("a/1")))
	require.NoError(t, err)
	require.True(t, ok)
	u = next(t, updates)
	require.Equal(t, rev, u.Revision)
	require.False(t, u.Whole)
	require.Len(t, u.Changes, 2)
	require.Equal(t, "a/2", u.Changes[0].Key)
	require.True(t, u.Changes[1].Deleted)

	ok, _, err = s.Commit(t.Context(), []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(s.Key("a/1")), "=", first)}, clientv3.OpPut(s.Key("a/3"), "z"))
	require.NoError(t, err)
	require.False(t, ok)
}

func TestSession(t *testing.T) {
	s := etcd(t)
	ss, err := s.Session(t.Context(), 2*time.Second)
	require.NoError(t, err)
	require.True(t, ss.Alive())
	require.LessOrEqual(t, ss.Until(), store.Now()+2*time.Second)
	put(t, s, "hosts/h", "x", clientv3.WithLease(ss.ID()))

	again, err := s.Resume(t.Context(), ss.ID())
	require.NoError(t, err)
	require.Equal(t, 2*time.Second, again.TTL())

	until := ss.Until()
	require.NoError(t, ss.Renew(t.Context()))
	require.Greater(t, ss.Until(), until)

	require.NoError(t, again.Close(t.Context()))
	require.False(t, again.Alive())
	_, found, _, err := s.Get(t.Context(), "hosts/h")
	require.NoError(t, err)
	require.False(t, found)
	require.ErrorIs(t, ss.Renew(t.Context()), store.ErrLeaseLost)
	require.ErrorIs(t, ss.Run(t.Context(), func(time.Duration) {}), store.ErrLeaseLost)
}

func TestClosed(t *testing.T) {
	s := etcd(t)
	updates := follow(t, s, "")
	require.True(t, next(t, updates).Whole)
	require.NoError(t, s.Close())
	_, err := s.List(t.Context(), "")
	require.ErrorIs(t, err, store.ErrClosed)
}
