// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package etcdtest_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nftnat/nftnat/fleet/internal/etcdtest"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// eventually repeats fn until it returns no error.
func eventually(t *testing.T, fn func(context.Context) error) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		require.NoError(c, fn(ctx))
	}, labtest.Stretch(30*time.Second), 20*time.Millisecond)
}

func TestCluster(t *testing.T) {
	labtest.LeakCheck(t)
	c := etcdtest.New(t, etcdtest.Options{Hosts: 2})
	client, other := c.Open(t, c.Hosts[0]), c.Open(t, c.Hosts[1])
	put := func(ctx context.Context) error { _, err := client.Put(ctx, "x", "1"); return err }
	eventually(t, put)

	t.Run("killed leader", func(t *testing.T) {
		leader := c.Leader(t)
		require.NotNil(t, leader)
		leader.Kill()
		require.False(t, leader.Running())
		eventually(t, put)
		leader.Start()
		c.AwaitReady(t)
	})
	t.Run("stopped leader", func(t *testing.T) {
		var leader *etcdtest.Member
		require.Eventually(t, func() bool { leader = c.Leader(t); return leader != nil }, 10*time.Second, 20*time.Millisecond)
		require.NoError(t, leader.Stop())
		eventually(t, put)
		require.NoError(t, leader.Continue())
		c.AwaitReady(t)
	})
	t.Run("moved leader", func(t *testing.T) {
		var from *etcdtest.Member
		require.Eventually(t, func() bool { from = c.Leader(t); return from != nil }, 10*time.Second, 20*time.Millisecond)
		to := c.MoveLeader(t)
		require.NotEqual(t, from, to)
		require.Eventually(t, func() bool { return c.Leader(t) == to }, 10*time.Second, 20*time.Millisecond)
	})
	t.Run("isolated member", func(t *testing.T) {
		m := c.Members[0]
		alone := c.Open(t, c.Client, m.Endpoint)
		require.NoError(t, m.Isolate())
		eventually(t, func(ctx context.Context) error { // the others go on
			_, err := c.Open(t, c.Client, c.Members[1].Endpoint).Put(ctx, "x", "isolated")
			return err
		})
		got, err := alone.Get(t.Context(), "x", clientv3.WithSerializable())
		require.NoError(t, err)
		require.NotEqual(t, "isolated", string(got.Kvs[0].Value))
		require.NoError(t, m.Rejoin())
		c.AwaitReady(t)
	})
	t.Run("cut host", func(t *testing.T) {
		eventually(t, put)
		require.NoError(t, c.LAN.Cut(c.Hosts[0]))
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		require.Error(t, put(ctx))
		cancel()
		eventually(t, func(ctx context.Context) error { _, err := other.Put(ctx, "x", "2"); return err })
		require.NoError(t, c.LAN.Reconnect(c.Hosts[0]))
		eventually(t, put)
	})
	t.Run("restored", func(t *testing.T) {
		before, err := other.Get(t.Context(), "x")
		require.NoError(t, err)
		snapshot := c.Snapshot(t)
		for range 5 {
			eventually(t, put)
		}
		c.Restore(t, snapshot)
		var after *clientv3.GetResponse
		eventually(t, func(ctx context.Context) (err error) { after, err = other.Get(ctx, "x"); return err })
		require.Equal(t, before.Header.Revision, after.Header.Revision)
		require.Equal(t, before.Kvs[0].ModRevision, after.Kvs[0].ModRevision)
	})
	t.Run("compacted", func(t *testing.T) {
		eventually(t, put)
		revision := c.Compact(t)
		_, err := client.Get(t.Context(), "x", clientv3.WithRev(revision-1))
		require.ErrorContains(t, err, "has been compacted")
	})
}

func TestQuota(t *testing.T) {
	c := etcdtest.New(t, etcdtest.Options{Members: 1, Quota: 4 << 20})
	client := c.Open(t, c.Client)
	value := strings.Repeat("x", 512<<10)
	var err error
	for i := 0; i < 100 && err == nil; i++ {
		_, err = client.Put(t.Context(), fmt.Sprint(i), value)
	}
	require.ErrorContains(t, err, "database space exceeded")
	_, err = client.Delete(t.Context(), "", clientv3.WithPrefix())
	require.NoError(t, err)
	c.Compact(t)
	c.Defragment(t)
	c.Disarm(t)
	_, err = client.Put(t.Context(), "x", "1")
	require.NoError(t, err)
}

func TestTLS(t *testing.T) {
	c := etcdtest.New(t, etcdtest.Options{Members: 1, TLS: true})
	_, err := c.Open(t, c.Client).Put(t.Context(), "x", "1")
	require.NoError(t, err)

	config := c.Config(t, c.Client)
	config.TLS = c.CA.ClientConfig(c.CA.ClientUntil(t, "client", time.Now().Add(-time.Hour)))
	client, err := clientv3.New(config)
	require.NoError(t, err)
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = client.Get(ctx, "x")
	require.Error(t, err)
	require.Contains(t, c.Members[0].Output(), "certificate has expired")
	// What etcdctl does, it does with a certificate.
	_ = c.Snapshot(t)
}
