// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package float_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nftnat/nftnat/fleet/float"
	"github.com/nftnat/nftnat/fleet/internal/announce"
	"github.com/nftnat/nftnat/fleet/internal/etcdtest"
	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// opener opens interfaces of a host.
func opener(ns *lab.NS) func(string) (*announce.Interface, error) {
	return func(name string) (i *announce.Interface, err error) {
		err = ns.Do(func() (err error) { i, err = announce.Open(name); return err })
		return i, err
	}
}

// manage runs a manager in this process until stop is called, which waits.
func manage(t *testing.T, m *float.Manager, st *store.Store, ss *store.Session) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = m.Run(ctx) })
	wg.Go(func() { _ = ss.Run(ctx, func(time.Duration) { m.Session(ss) }) })
	wg.Go(func() { _ = st.Follow(ctx, "", func(u store.Update) error { m.Update(u); return nil }) })
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return stop
}

// values collects what a key becomes; empty: it is gone.
func values(t *testing.T, st *store.Store, key string) func() []string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	var all []string
	begun, begin := make(chan struct{}), sync.Once{}
	wg.Go(func() {
		_ = st.Follow(ctx, key, func(u store.Update) error {
			mu.Lock()
			defer mu.Unlock()
			if u.Whole {
				begin.Do(func() { close(begun) })
			}
			for _, c := range u.Changes {
				all = append(all, c.Value)
			}
			return nil
		})
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	<-begun
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

// A host that cannot publish what is mapped on an address lets another have it, and never has it itself.
func TestCannotPublish(t *testing.T) {
	labtest.LeakCheck(t)
	c := etcdtest.New(t, etcdtest.Options{Members: 1, Hosts: 1})
	st := open(t, c, c.Hosts[0], keys.Prefix)
	ss, err := st.Session(t.Context(), 5*time.Second)
	require.NoError(t, err)
	seen := values(t, st, keys.Float(float4))
	m := float.New(float.Options{
		Store: st, Host: "web1", Open: opener(c.Hosts[0]),
		Apply: func(context.Context) error { return errors.New("the port is in use") },
	})
	stop := manage(t, m, st, ss)
	_, err = float.Create(t.Context(), st, keys.OfHost("web1"), float4, lab.MachineLink)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(seen()) >= 2 }, labtest.Stretch(20*time.Second), time.Millisecond)
	require.Equal(t, []string{"web1 taking", ""}, seen()[:2])
	require.NotContains(t, labtest.Exec(t, c.Hosts[0], "ip", "-o", "addr"), float4.String()+"/")
	require.Contains(t, m.Problems(), "floating address 192.0.2.100: the port is in use")
	stop()
	require.True(t, m.Clear())
}

// An agent that was killed has left its address, which the kernel ends later. The next one has the key
// by the same lease, and removes the address before it gives the key back.
func TestLeftByKilled(t *testing.T) {
	labtest.LeakCheck(t)
	c := etcdtest.New(t, etcdtest.Options{Members: 1, Hosts: 1})
	st := open(t, c, c.Hosts[0], keys.Prefix)
	ss, err := st.Session(t.Context(), 5*time.Second)
	require.NoError(t, err)
	earlier, err := opener(c.Hosts[0])(lab.MachineLink)
	require.NoError(t, err)
	defer earlier.Close()
	for _, how := range []string{"it no longer floats here", "its interface is gone", "the next one is ended"} {
		t.Run(how, func(t *testing.T) {
			require.NoError(t, earlier.Set(float4, 50*time.Second))
			ok, _, err := st.Commit(t.Context(), nil, clientv3.OpPut(st.Key(keys.Float(float4)), "web1 serving", clientv3.WithLease(ss.ID())))
			require.NoError(t, err)
			require.True(t, ok)
			if how == "its interface is gone" {
				_, err := float.Create(t.Context(), st, keys.OfHost("web1"), float4, "eth7")
				require.NoError(t, err)
			}
			seen := values(t, st, keys.Float(float4))
			m := float.New(float.Options{Store: st, Host: "web1", Open: opener(c.Hosts[0])})
			if how == "the next one is ended" { // before it knows anything: its lease may not be revoked
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				require.ErrorIs(t, m.Run(ctx), context.Canceled)
				require.False(t, m.Clear())
				return
			}
			stop := manage(t, m, st, ss)
			require.Eventually(t, func() bool { return slices.Contains(seen(), "") }, labtest.Stretch(20*time.Second), time.Millisecond)
			require.NotContains(t, labtest.Exec(t, c.Hosts[0], "ip", "-o", "addr"), float4.String()+"/")
			stop()
			require.True(t, m.Clear())
		})
	}
}
