// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package space

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

// TestFaults leases and releases on four hosts while their links are cut, members of etcd are killed, leaders
// change, and agents are killed: for NFTNAT_FLEET_SECONDS, from NFTNAT_FLEET_SEED on. Nothing is leased
// twice, blocks have one holder at a time, and in the end etcd has what the hosts hold.
func TestFaults(t *testing.T) {
	seconds, seed := number(t, "NFTNAT_FLEET_SECONDS", 10), number(t, "NFTNAT_FLEET_SEED", 1)
	const hosts = 4
	c := etcdtest.New(t, etcdtest.Options{Hosts: hosts})
	operator := openStore(t, c, c.Client)
	defer operator.Close()
	d := shared(t, operator, "all", "10.60.0.0/24", 29)
	h := &history{begun: time.Now()}
	m := newModel()
	agents := make([]*agent, hosts)
	daemons := make([]*fakeDaemon, hosts)
	var clients int
	run := func(i int) {
		s := openStore(t, c, c.Hosts[i])
		a := prepare(t, s, fmt.Sprintf("h%d", i), daemons[i])
		h.record(a, clients)
		clients++
		a.run(t)
		agents[i] = a
	}
	for i := range hosts {
		daemons[i] = newFakeDaemon()
		run(i)
	}
	deadline := time.Now().Add(time.Duration(seconds) * time.Second)
	over := func() bool { return !time.Now().Before(deadline) }
	var wg sync.WaitGroup
	failed := make([]int, hosts)
	kill := make([]chan struct{}, hosts)
	for i := range hosts {
		kill[i] = make(chan struct{}, 1)
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(seed), uint64(i))) //nolint:gosec // a test repeats
			held := []string(nil)
			for n := 0; !over(); n++ {
				select {
				case <-kill[i]: // no call is under way: a model cannot know of what it did
					agents[i].end()
					_ = agents[i].store.Close()
					run(i)
				default:
				}
				if len(held) >= 1+r.IntN(20) {
					j := r.IntN(len(held))
					ep, err := daemons[i].Endpoint(t.Context(), held[j])
					require.NoError(t, err)
					m.releases(ep.Address)
					if _, err := agents[i].Release(t.Context(), "all", held[j]); err != nil {
						failed[i]++
						if _, err := daemons[i].Endpoint(t.Context(), held[j]); err == nil {
							m.leases--
							m.leased(ep.Address, held[j])
							continue
						}
					}
					held = append(held[:j], held[j+1:]...)
					continue
				}
				name := fmt.Sprintf("h%d-%d", i, n)
				ep, err := agents[i].Lease(t.Context(), spec("all", name))
				if err != nil {
					failed[i]++
					time.Sleep(5 * time.Millisecond)
					continue
				}
				m.leased(ep.Address, name)
				held = append(held, name)
				time.Sleep(time.Duration(r.IntN(3)) * time.Millisecond)
			}
		})
	}
	nemesis(t, c, seed, over, kill)
	wg.Wait()
	m.check(t)
	checkBlocks(t, agents, d)
	for i, a := range agents {
		require.Empty(t, a.Faults(), "host %d", i)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	unknown := 0
	for _, op := range h.ops {
		if op.Output.(outcome).unknown {
			unknown++
		}
	}
	begun := time.Now()
	require.True(t, porcupine.CheckOperations(ownership(), h.ops), "blocks had no single holder at a time")
	t.Logf("%d leases, %d calls failed, %d changes and reads of blocks, %d of unknown outcome, checked in %d ms; 0 addresses twice",
		m.leases, failed[0]+failed[1]+failed[2]+failed[3], len(h.ops), unknown, time.Since(begun).Milliseconds())
}

// nemesis breaks things and puts them back, until over.
func nemesis(t *testing.T, c *etcdtest.Cluster, seed int, over func() bool, kill []chan struct{}) {
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
			select {
			case kill[r.IntN(len(kill))] <- struct{}{}:
			default:
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
