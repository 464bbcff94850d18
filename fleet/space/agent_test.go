// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package space

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nftnat/nftnat/fleet/internal/etcdtest"
	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/nat"
)

// agent is a manager with what an agent gives it.
type agent struct {
	*Manager
	store  *store.Store
	daemon *fakeDaemon
	end    func() // as kill -9 does: nothing is given back
}

// openStore connects from a namespace, which may be cut off.
func openStore(tb testing.TB, c *etcdtest.Cluster, ns *lab.NS) *store.Store {
	tb.Helper()
	s, err := store.Open(tb.Context(), store.Options{
		Endpoints: c.Endpoints, Timeout: 2 * time.Second,
		Dial: func(ctx context.Context, addr string) (net.Conn, error) { return ns.Dial(ctx, "tcp", addr) },
	})
	require.NoError(tb, err)
	return s
}

// start runs the agent of a host.
func start(tb testing.TB, s *store.Store, host string, d *fakeDaemon) *agent {
	tb.Helper()
	a := prepare(tb, s, host, d)
	a.run(tb)
	return a
}

func prepare(tb testing.TB, s *store.Store, host string, d *fakeDaemon) *agent {
	tb.Helper()
	log := slog.New(slog.NewTextHandler(tb.Output(), nil)).With("host", host)
	return &agent{Manager: New(Options{Host: host, Store: s, Daemon: d, Every: 500 * time.Millisecond, Log: log}), store: s, daemon: d}
}

func (a *agent) run(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background()) // it ends as the test has it
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = a.store.Follow(ctx, keys.Spaces, func(u store.Update) error { // it is ended
			a.Update(u)
			return nil
		})
	})
	wg.Go(func() { _ = a.Run(ctx) }) // it is ended
	wg.Go(func() {                   // as an agent does: by the answers it notices a restore
		for ctx.Err() == nil {
			if ss, err := a.store.Session(ctx, 3*time.Second); err == nil {
				last := time.Now()
				_ = ss.Run(ctx, func(time.Duration) { // until it is lost
					if time.Since(last) > ss.TTL()/2 {
						a.Away()
					}
					last = time.Now()
				})
				a.Away()
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	a.end = func() {
		cancel()
		wg.Wait()
	}
	tb.Cleanup(a.end)
}

// eventually waits until f returns nil.
func eventually(tb testing.TB, f func() error) {
	tb.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// shared creates a shared network.
func shared(tb testing.TB, s *store.Store, name, prefix string, block int) Definition {
	tb.Helper()
	d, err := Create(tb.Context(), s, define(name, prefix, block), nil)
	require.NoError(tb, err)
	return d
}

type (
	compare   = clientv3.Cmp
	operation = clientv3.Op
)

func spec(network, name string) nat.EndpointSpec {
	return nat.EndpointSpec{Name: name, Network: network}
}
