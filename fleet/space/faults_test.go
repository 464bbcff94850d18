// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package space

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nftnat/nftnat/fleet/internal/etcdtest"
	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/nat"
)

// history is what agents did to blocks.
type history struct {
	mu    sync.Mutex
	begun time.Time
	ops   []porcupine.Operation
}

// change is an input: a block becomes held by who, or free by who if free is set; without who it is read.
type change struct {
	key, who string
	free     bool
}

// outcome is an output.
type outcome struct {
	unknown bool
	value   string // that was read; empty: none
}

func (h *history) now() int64 { return time.Since(h.begun).Nanoseconds() }

func (h *history) add(client int, in change, call int64, out outcome) {
	h.mu.Lock()
	defer h.mu.Unlock()
	end := h.now()
	if out.unknown {
		end = int64(time.Hour) // it may be made at any time
	}
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: end})
}

// record has what an agent does to blocks written down.
func (h *history) record(a *agent, client int) {
	a.commit = func(ctx context.Context, ifs []clientv3.Cmp, then ...clientv3.Op) (bool, int64, error) {
		call := h.now()
		ok, rev, err := a.store.Commit(ctx, ifs, then...)
		key := strings.TrimPrefix(string(then[0].KeyBytes()), a.store.Key(""))
		if k, is := keys.ParseSpaceKey(key); !is || !k.IsBlock {
			return ok, rev, err
		}
		in := change{key: key, who: a.host, free: string(then[0].ValueBytes()) == keys.FreeBlock}
		switch {
		case err != nil:
			h.add(client, in, call, outcome{unknown: true})
		case ok:
			h.add(client, in, call, outcome{})
		}
		return ok, rev, err
	}
	a.get = func(ctx context.Context, key string) (store.Entry, bool, int64, error) {
		call := h.now()
		e, found, rev, err := a.store.Get(ctx, key)
		if k, is := keys.ParseSpaceKey(key); err == nil && is && k.IsBlock {
			value, _, _ := strings.Cut(e.Value, " ")
			h.add(client, change{key: key}, call, outcome{value: value})
		}
		return e, found, rev, err
	}
}

// ownership is the model: each block has one holder at a time, who alone frees it.
func ownership() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Partition: func(ops []porcupine.Operation) [][]porcupine.Operation {
			by := map[string][]porcupine.Operation{}
			for _, op := range ops {
				key := op.Input.(change).key
				by[key] = append(by[key], op)
			}
			var all [][]porcupine.Operation
			for _, ops := range by {
				all = append(all, ops)
			}
			return all
		},
		Init: func() []any { return []any{""} },
		Step: func(state, input, output any) []any {
			holder, in, out := state.(string), input.(change), output.(outcome)
			var next []any
			if out.unknown {
				next = append(next, holder)
			}
			free := holder == "" || holder == keys.FreeBlock
			switch {
			case in.who == "":
				if holder == out.value {
					return []any{holder}
				}
				return nil
			case in.free && holder == in.who:
				next = append(next, keys.FreeBlock)
			case !in.free && (free || holder == in.who): // it renews what it has
				next = append(next, in.who)
			}
			return next
		},
	}
	return m.ToModel()
}

// hosts is how many hosts a group has.
const hosts = 4

// group is a fleet of its own: agents of a few hosts with a network, which lease and release at random.
type group struct {
	seed     int
	cluster  *etcdtest.Cluster
	prefix   string
	operator *store.Store
	def      Definition
	history  *history
	model    *model
	agents   []*agent
	daemons  []*fakeDaemon
	kill     []chan struct{}
	clients  int
	mu       sync.Mutex
	failed   int
}

func newGroup(t *testing.T, c *etcdtest.Cluster, seed int) *group {
	t.Helper()
	g := &group{seed: seed, cluster: c, prefix: fmt.Sprintf("/seed/%d/", seed), history: &history{begun: time.Now()}, model: newModel(), agents: make([]*agent, hosts)}
	var err error
	g.operator, err = g.open(c.Client)
	require.NoError(t, err)
	g.def = shared(t, g.operator, "all", "10.60.0.0/24", 29)
	for i := range hosts {
		g.daemons = append(g.daemons, newFakeDaemon())
		g.kill = append(g.kill, make(chan struct{}, 1))
		require.NoError(t, g.start(t, i))
	}
	return g
}

func (g *group) open(ns *lab.NS) (*store.Store, error) {
	return store.Open(context.Background(), store.Options{
		Endpoints: g.cluster.Endpoints, Timeout: time.Second, Prefix: g.prefix,
		Dial: func(ctx context.Context, addr string) (net.Conn, error) { return ns.Dial(ctx, "tcp", addr) },
	})
}

// start starts the agent of a host.
func (g *group) start(t *testing.T, i int) error {
	t.Helper()
	s, err := g.open(g.cluster.Hosts[i])
	if err != nil {
		return err
	}
	a := prepare(t, s, fmt.Sprintf("h%d", i), g.daemons[i])
	a.log = slog.New(slog.DiscardHandler)
	g.mu.Lock()
	g.history.record(a, g.clients)
	g.clients++
	g.mu.Unlock()
	a.run(t)
	g.agents[i] = a
	return nil
}

// fail counts a call that failed.
func (g *group) fail() {
	g.mu.Lock()
	g.failed++
	g.mu.Unlock()
	time.Sleep(5 * time.Millisecond)
}

// work leases and releases on one host, until over.
func (g *group) work(t *testing.T, i int, over func() bool) {
	t.Helper()
	r := rand.New(rand.NewPCG(uint64(g.seed), uint64(i))) //nolint:gosec // a test repeats
	var held []nat.Endpoint
	for n := 0; !over(); n++ {
		select {
		case <-g.kill[i]: // while no call is under way: the model could not know what it did
			g.agents[i].end()
			_ = g.agents[i].store.Close()
			for g.start(t, i) != nil { // it is cut off
				time.Sleep(20 * time.Millisecond)
			}
		default:
		}
		time.Sleep(time.Duration(r.IntN(10)) * time.Millisecond)
		if len(held) < 1+r.IntN(20) {
			name := fmt.Sprintf("h%d-%d", i, n)
			ep, err := g.agents[i].Lease(t.Context(), spec("all", name))
			if err != nil {
				g.fail()
				continue
			}
			g.model.leased(ep.Address, name)
			held = append(held, ep)
			continue
		}
		j := r.IntN(len(held))
		g.model.releases(held[j].Address)
		if _, err := g.agents[i].Release(t.Context(), "all", held[j].Name); err != nil {
			t.Errorf("seed %d: release: %v", g.seed, err) // it needs no etcd
			return
		}
		held = append(held[:j], held[j+1:]...)
	}
}

// check checks what has happened, and ends the agents.
func (g *group) check(t *testing.T) (ops, unknown int) {
	t.Helper()
	g.model.check(t)
	checkBlocks(t, g.agents, g.def)
	for _, a := range g.agents {
		require.Empty(t, a.Faults(), "seed %d, host %s", g.seed, a.host)
		a.end()
		_ = a.store.Close()
	}
	_ = g.operator.Close()
	g.history.mu.Lock()
	defer g.history.mu.Unlock()
	for _, op := range g.history.ops {
		if op.Output.(outcome).unknown {
			unknown++
		}
	}
	require.True(t, porcupine.CheckOperations(ownership(), g.history.ops), "seed %d: blocks had no single holder at a time", g.seed)
	return len(g.history.ops), unknown
}

// TestHistories has hosts lease and release while their links are cut, members of etcd are killed and stopped, and
// agents are killed. Nothing is leased twice, blocks have one holder at a time by porcupine, and in the end etcd has
// what the hosts hold. NFTNAT_FLEET_SEEDS histories, ten at a time, of NFTNAT_FLEET_SECONDS each, from
// NFTNAT_FLEET_SEED on.
func TestHistories(t *testing.T) {
	seconds, first, seeds := number(t, "NFTNAT_FLEET_SECONDS", 3), number(t, "NFTNAT_FLEET_SEED", 1), number(t, "NFTNAT_FLEET_SEEDS", 50)
	const atOnce = 10
	c := etcdtest.New(t, etcdtest.Options{Hosts: hosts})
	var leases, failed, ops, unknown int
	for seed := first; seed < first+seeds; seed += atOnce {
		var groups []*group
		for i := range min(atOnce, first+seeds-seed) {
			groups = append(groups, newGroup(t, c, seed+i))
		}
		deadline := time.Now().Add(time.Duration(seconds) * time.Second)
		over := func() bool { return !time.Now().Before(deadline) }
		var wg sync.WaitGroup
		for _, g := range groups {
			for i := range hosts {
				wg.Go(func() { g.work(t, i, over) })
			}
		}
		nemesis(t, c, seed, over, groups)
		wg.Wait()
		for _, g := range groups {
			o, u := g.check(t)
			leases, failed, ops, unknown = leases+g.model.leases, failed+g.failed, ops+o, unknown+u
		}
	}
	t.Logf("%d histories of %d s: %d leases, %d failed, 0 addresses twice; %d changes and reads of blocks, %d of unknown outcome", seeds, seconds, leases, failed, ops, unknown)
}

// nemesis breaks things and puts them back, until over.
func nemesis(t *testing.T, c *etcdtest.Cluster, seed int, over func() bool, groups []*group) {
	t.Helper()
	r := rand.New(rand.NewPCG(uint64(seed), 99)) //nolint:gosec // a test repeats
	wait := func(most int) {
		end := time.Now().Add(time.Duration(200+r.IntN(most)) * time.Millisecond)
		for !over() && time.Now().Before(end) {
			time.Sleep(20 * time.Millisecond)
		}
	}
	for !over() {
		wait(500)
		switch r.IntN(4) {
		case 0:
			ns := c.Hosts[r.IntN(len(c.Hosts))]
			require.NoError(t, c.LAN.Cut(ns))
			wait(2000)
			require.NoError(t, c.LAN.Reconnect(ns))
		case 1:
			m := c.Members[r.IntN(len(c.Members))]
			m.Kill()
			wait(1500)
			m.Start()
		case 2:
			m := c.Members[r.IntN(len(c.Members))]
			require.NoError(t, m.Stop())
			wait(1500)
			require.NoError(t, m.Continue())
		case 3:
			for _, g := range groups {
				select {
				case g.kill[r.IntN(hosts)] <- struct{}{}:
				default:
				}
			}
		}
	}
	c.AwaitReady(t)
}

// TestRestore restores etcd from a snapshot that is older than blocks which hosts hold: nothing is leased until all have
// claimed theirs, and then nothing twice.
func TestRestore(t *testing.T) {
	c := etcdtest.New(t, etcdtest.Options{})
	var stores []*store.Store
	for range 3 {
		s := openStore(t, c, c.Client)
		defer s.Close()
		stores = append(stores, s)
	}
	d := shared(t, stores[0], "all", "10.60.0.0/25", 29) // 16 blocks
	m := newModel()
	var agents []*agent
	lease := func(a *agent, n int) {
		for i := range n {
			name := fmt.Sprintf("%s-%d-%d", a.host, i, len(m.holder))
			ep, err := a.Lease(t.Context(), spec("all", name))
			require.NoError(t, err)
			m.leased(ep.Address, name)
		}
	}
	for i, s := range stores {
		a := start(t, s, fmt.Sprintf("h%d", i), newFakeDaemon())
		agents = append(agents, a)
		lease(a, 2)
	}
	snapshot := c.Snapshot(t)
	for _, a := range agents {
		lease(a, 13) // two or three more blocks each
	}
	agents[2].end() // it is away, with all that it holds
	require.NoError(t, agents[2].store.Close())
	c.Restore(t, snapshot)
	// So much is written at once that no revision goes back.
	for range 100 {
		_, err := c.Open(t, c.Client).Put(t.Context(), "/elsewhere", "x")
		require.NoError(t, err)
	}
	eventually(t, func() error {
		for _, a := range agents[:2] {
			name := fmt.Sprintf("%s-early-%d", a.host, len(m.holder))
			ep, err := a.Lease(t.Context(), spec("all", name))
			if err == nil { // of a block it held, before it knew
				m.leased(ep.Address, name)
			}
			if !errors.Is(err, ErrClosed) || !strings.Contains(err.Error(), "missing: h2)") {
				return fmt.Errorf("%s: %w", a.host, err)
			}
		}
		return nil
	})
	_, closed, err := List(t.Context(), stores[0])
	require.NoError(t, err)
	require.ErrorIs(t, closed, ErrClosed)
	// It comes back, and claims.
	s := openStore(t, c, c.Client)
	defer s.Close()
	agents[2] = start(t, s, "h2", agents[2].daemon)
	eventually(t, func() error {
		_, closed, err := List(t.Context(), stores[0])
		return errors.Join(closed, err)
	})
	for _, a := range agents {
		eventually(t, func() error { _, _, err := a.await(t.Context(), "all"); return err })
		lease(a, 5)
	}
	m.check(t)
	checkBlocks(t, agents, d)
}
