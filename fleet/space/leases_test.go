// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package space

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/fleet/internal/etcdtest"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/nat"
)

// model is what all hosts together have leased, naively.
type model struct {
	mu       sync.Mutex
	holder   map[netip.Addr]string
	released map[netip.Addr]int // after how many leases of all
	leases   int
	reuse    []int // how many leases passed until an address came again
	twice    []string
}

func newModel() *model {
	return &model{holder: map[netip.Addr]string{}, released: map[netip.Addr]int{}}
}

func (m *model) leased(a netip.Addr, by string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leases++
	if have, ok := m.holder[a]; ok {
		m.twice = append(m.twice, fmt.Sprintf("%s is leased to %s and to %s", a, have, by))
	}
	m.holder[a] = by
	if at, ok := m.released[a]; ok {
		m.reuse = append(m.reuse, m.leases-at)
	}
}

// releases is called before an address is released.
func (m *model) releases(a netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.holder, a)
	m.released[a] = m.leases
}

func (m *model) check(tb testing.TB) {
	tb.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	require.Empty(tb, m.twice)
}

// number returns a number from the environment.
func number(tb testing.TB, name string, otherwise int) int {
	tb.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	require.NoError(tb, err)
	return n
}

// worker leases and releases as one host, and holds some addresses: it releases the oldest, or any. It returns how many calls failed.
func worker(ctx context.Context, a *agent, m *model, r *rand.Rand, n, hold int, oldest bool, done func() bool) (failed int) {
	type lease struct {
		name string
		addr netip.Addr
	}
	var held []lease
	for i := 0; i < n && !done(); i++ {
		if len(held) >= 1+r.IntN(hold) {
			j := 0
			if !oldest {
				j = r.IntN(len(held))
			}
			m.releases(held[j].addr)
			for {
				_, err := a.Release(ctx, "all", held[j].name)
				if err == nil || errors.Is(err, nat.ErrNotFound) {
					break
				}
				failed++
				time.Sleep(10 * time.Millisecond)
			}
			held = slices.Delete(held, j, j+1)
			i--
			continue
		}
		name := fmt.Sprintf("%s-%d", a.host, i)
		ep, err := a.Lease(ctx, spec("all", name))
		if err != nil {
			failed++
			time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond)
			continue
		}
		m.leased(ep.Address, name)
		held = append(held, lease{name, ep.Address})
	}
	return failed
}

// TestLeases has 20 agents lease and release, NFTNAT_FLEET_LEASES times in all, and compares
// them with a naive model. The daemons are fakes with the allocator of the real one.
func TestLeases(t *testing.T) {
	c := etcdtest.New(t, etcdtest.Options{})
	total := number(t, "NFTNAT_FLEET_LEASES", 40_000)
	const agents = 20
	stores := make([]*store.Store, agents)
	for i := range stores {
		stores[i] = openStore(t, c, c.Client)
		defer stores[i].Close()
	}
	prefix := "10.60.0.0/19"
	if total > 200_000 {
		prefix = "10.60.0.0/16"
	}
	d := shared(t, stores[0], "all", prefix, 26)
	m := newModel()
	begun := time.Now()
	var wg sync.WaitGroup
	failed := make([]int, agents)
	all := make([]*agent, agents)
	for i := range all {
		all[i] = start(t, stores[i], fmt.Sprintf("h%d", i), newFakeDaemon())
		all[i].log = New(Options{}).log
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 7)) //nolint:gosec // a test repeats
			failed[i] = worker(t.Context(), all[i], m, r, total/agents, 120, i%2 == 0, func() bool { return false })
		})
	}
	wg.Wait()
	took := time.Since(begun)
	m.check(t)
	for i, n := range failed {
		require.Zero(t, n, "failures of host %d", i)
	}
	require.Equal(t, total, m.leases)
	slices.Sort(m.reuse)
	sum := 0
	for _, n := range m.reuse {
		sum += n
	}
	t.Logf("%d leases by %d agents of %s in %.1f s: %.0f a second, %d twice", m.leases, agents, d.Prefix, took.Seconds(), float64(m.leases)/took.Seconds(), len(m.twice))
	if len(m.reuse) != 0 {
		t.Logf("an address came again after at least %d, p1 %d, on average %d leases of all hosts", m.reuse[0], m.reuse[len(m.reuse)/100], sum/len(m.reuse))
	}
	checkBlocks(t, all, d)
}

// checkBlocks compares what the daemons hold with etcd.
func checkBlocks(t *testing.T, all []*agent, d Definition) {
	t.Helper()
	eventually(t, func() error {
		nets, closed, err := List(t.Context(), all[0].store)
		if err != nil || closed != nil {
			return errors.Join(closed, err)
		}
		for _, n := range nets {
			if n.Name != d.Name {
				continue
			}
			for _, a := range all {
				want := map[string]bool{}
				for _, i := range n.Held[a.host] {
					want[BlockName(d.Name, i)] = true
				}
				have, err := a.daemon.Networks(t.Context())
				if err != nil {
					return err
				}
				if len(have) != len(want) || slices.ContainsFunc(have, func(n nat.Network) bool { return !want[n.Name] }) {
					return fmt.Errorf("host %s holds %v, and etcd has %v", a.host, have, want)
				}
			}
			return nil
		}
		return fmt.Errorf("no network %s", d.Name)
	})
}
