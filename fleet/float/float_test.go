// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package float_test

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/fleet/float"
	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

var (
	float4 = netip.MustParseAddr("192.0.2.100")
	float6 = netip.MustParseAddr("2001:db8:1::100")
)

func at(a netip.Addr) string { return netip.AddrPortFrom(a, 7000).String() }

func mac(t *testing.T, ns *lab.NS) string {
	t.Helper()
	return strings.Fields(labtest.Exec(t, ns, "ip", "-br", "link", "show", lab.MachineLink))[2]
}

// create makes an address a floating one.
func (f *fleet) create(t *testing.T, a netip.Addr) {
	t.Helper()
	created, err := float.Create(t.Context(), f.store, keys.OfGroup("edge"), a, lab.MachineLink)
	require.NoError(t, err)
	require.True(t, created)
}

// deleted waits for the end of each holder's key, and says when it was told of it.
type deleted struct {
	mu    sync.Mutex
	ended map[string]time.Time // by host; the first end
	taken map[string]time.Time // by host; serving
}

func follow(t *testing.T, f *fleet, a netip.Addr) *deleted {
	t.Helper()
	d := &deleted{ended: make(map[string]time.Time), taken: make(map[string]time.Time)}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	last := ""
	wg.Go(func() {
		_ = f.store.Follow(ctx, keys.Float(a), func(u store.Update) error {
			d.mu.Lock()
			defer d.mu.Unlock()
			for _, e := range u.Entries {
				u.Changes = append(u.Changes, store.Change{Entry: e})
			}
			for _, c := range u.Changes {
				h, _ := keys.ParseHolder(c.Value)
				if h.Host != last && last != "" {
					d.ended[last] = time.Now()
				}
				last = h.Host
				if h.Serving {
					d.taken[h.Host] = time.Now()
				}
			}
			return nil
		})
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return d
}

func (d *deleted) of(host string) (ended, taken time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ended[host], d.taken[host]
}

// A holder that is killed, stopped or cut off is gone from the LAN before its key is from
// etcd, and another serves in time. The one that comes back leaves the address alone.
func TestHolderDies(t *testing.T) {
	labtest.LeakCheck(t)
	const ttl = 5 * time.Second
	f := newFleet(t, 3, ttl)
	for _, how := range []string{"killed", "stopped", "cut off"} {
		t.Run(how, func(t *testing.T) {
			addrs := []netip.Addr{float4, float6}
			var holders []int
			for _, a := range addrs {
				f.create(t, a)
				holders = append(holders, f.holder(t, a))
			}
			// A holder dies.
			dead, addr := holders[0], float4
			if how == "stopped" {
				dead, addr = holders[1], float6
			}
			ns := f.Hosts[dead]
			labtest.Reaches(t, f.Client, "tcp", at(addr), name(dead))
			p, d := probe(t, f.Client, addr), follow(t, f, addr)
			require.Eventually(t, func() bool { return p.of(mac(t, ns)).mac != "" }, labtest.Stretch(10*time.Second), time.Millisecond)

			begin := time.Now()
			switch how {
			case "killed":
				f.agents[dead].Kill()
			case "stopped":
				require.NoError(t, f.agents[dead].Signal(syscall.SIGSTOP))
			case "cut off":
				require.NoError(t, f.LAN.Cut(ns))
			}
			next := f.holder(t, addr, dead)
			took := time.Since(begin)
			labtest.Reaches(t, f.Client, "tcp", at(addr), name(next))
			require.Less(t, took, labtest.Stretch(ttl+time.Second))
			var ended time.Time
			require.Eventually(t, func() bool { ended, _ = d.of(name(dead)); return !ended.IsZero() }, labtest.Stretch(10*time.Second), time.Millisecond)
			gone := p.of(mac(t, ns)).last
			t.Logf("%s: the address was gone after %v, the key after %v, the next served after %v", how,
				gone.Sub(begin).Round(time.Millisecond), ended.Sub(begin).Round(time.Millisecond), took.Round(time.Millisecond))
			require.Less(t, gone, ended)
			p.once(t)

			switch how {
			case "killed":
				f.start(t, dead)
			case "stopped":
				require.NoError(t, f.agents[dead].Signal(syscall.SIGCONT))
			case "cut off":
				require.NoError(t, f.LAN.Reconnect(ns))
			}
			require.Eventually(t, func() bool { // it is back
				_, found, _, err := f.store.Get(t.Context(), keys.Host(name(dead)))
				return err == nil && found
			}, labtest.Stretch(30*time.Second), 10*time.Millisecond)
			require.Equal(t, next, f.holder(t, addr))
			p.once(t)
			require.NotContains(t, labtest.Exec(t, ns, "ip", "-o", "addr"), addr.String()+"/")
			for _, a := range addrs {
				require.NoError(t, float.Remove(t.Context(), f.store, keys.OfGroup("edge"), a))
				for _, ns := range f.Hosts {
					require.Eventually(t, func() bool { return !strings.Contains(labtest.Exec(t, ns, "ip", "-o", "addr"), a.String()+"/") }, labtest.Stretch(10*time.Second), 5*time.Millisecond)
				}
			}
		})
	}
}

// An address is handed over while new connections come every 5 ms: none is refused.
func TestHandOver(t *testing.T) {
	labtest.LeakCheck(t)
	f := newFleet(t, 2, 5*time.Second)
	for _, a := range []netip.Addr{float4, float6} {
		f.create(t, a)
		from := f.holder(t, a)
		to := 1 - from
		c, stop := connect(t, f.Client, at(a), servedBy)
		c.many(t, name(from))
		begin := time.Now()
		require.NoError(t, float.HandOver(t.Context(), f.store, a, name(to)))
		done := time.Now()
		t.Logf("%s was handed over in %v", a, done.Sub(begin).Round(time.Millisecond))
		c.many(t, name(to))
		require.NoError(t, float.HandOver(t.Context(), f.store, a, name(to))) // it has it
		stop()
		c.verify(t, done)
		require.NotContains(t, labtest.Exec(t, f.Hosts[from], "ip", "-o", "addr"), a.String()+"/")
	}
	t.Run("leader killed", func(t *testing.T) {
		from := f.holder(t, float6)
		leader := f.Leader(t)
		require.NotNil(t, leader)
		c, stop := connect(t, f.Client, at(float6), servedBy)
		c.many(t, name(from))
		asked := make(chan error, 1)
		go func() { asked <- float.HandOver(t.Context(), f.store, float6, name(1-from)) }()
		time.Sleep(2 * time.Millisecond) // in the midst of it
		leader.Kill()
		err := <-asked // it may not have been done
		serves := f.holder(t, float6)
		done := time.Now()
		t.Logf("handed over: %v; %s serves", err, name(serves))
		c.many(t, name(serves))
		stop()
		c.verify(t, done)
		leader.Start()
		f.AwaitReady(t)
	})
	err := float.HandOver(t.Context(), f.store, float4, "web9")
	require.ErrorIs(t, err, nat.ErrNotFound)
	require.ErrorContains(t, err, "its agent does not run")
	require.NoError(t, float.Remove(t.Context(), f.store, keys.OfGroup("edge"), float4))
	require.Eventually(t, func() bool { // its holder has given it up
		_, held, _, err := f.store.Get(t.Context(), keys.Float(float4))
		return err == nil && !held
	}, labtest.Stretch(10*time.Second), 5*time.Millisecond)
	_, err = float.Create(t.Context(), f.store, keys.OfHost(name(0)), float4, lab.MachineLink)
	require.NoError(t, err)
	require.Equal(t, 0, f.holder(t, float4, 1))
	err = float.HandOver(t.Context(), f.store, float4, name(1))
	require.ErrorIs(t, err, nat.ErrNotFound)
	require.ErrorContains(t, err, "the address does not float there")
	err = float.HandOver(t.Context(), f.store, netip.MustParseAddr("192.0.2.101"), name(0))
	require.ErrorIs(t, err, nat.ErrNotFound)
	require.ErrorContains(t, err, "no host holds it")
}

// An address that is on a host by hand is neither taken over there nor removed; the host says
// so, and another host takes it.
func TestByHand(t *testing.T) {
	labtest.LeakCheck(t)
	f := newFleet(t, 2, 5*time.Second)
	labtest.Exec(t, f.Hosts[0], "ip", "addr", "add", "192.0.2.100/24", "dev", lab.MachineLink)
	f.create(t, float4)
	require.Equal(t, 1, f.holder(t, float4))
	f.agents[1].Kill()
	require.Eventually(t, func() bool {
		return strings.Contains(f.agents[0].Output(), "the host has the address already, and not from the fleet")
	}, labtest.Stretch(10*time.Second), 10*time.Millisecond)
	require.Contains(t, labtest.Exec(t, f.Hosts[0], "ip", "-o", "addr"), "192.0.2.100/24")
	require.Eventually(t, func() bool {
		_, found, _, err := f.store.Get(t.Context(), keys.Float(float4))
		return err == nil && !found
	}, labtest.Stretch(20*time.Second), 10*time.Millisecond)
	labtest.Exec(t, f.Hosts[0], "ip", "addr", "del", "192.0.2.100/24", "dev", lab.MachineLink)
	require.Equal(t, 0, f.holder(t, float4))

	// An agent that ends gives its address back at once.
	f.start(t, 1)
	require.Eventually(t, func() bool {
		_, found, _, err := f.store.Get(t.Context(), keys.Host(name(1)))
		return err == nil && found
	}, labtest.Stretch(20*time.Second), 10*time.Millisecond)
	begin := time.Now()
	require.NoError(t, f.agents[0].Signal(syscall.SIGTERM))
	f.holder(t, float4, 0)
	require.Less(t, time.Since(begin), labtest.Stretch(2*time.Second))
	require.Equal(t, 0, f.agents[0].Wait())
	require.NotContains(t, labtest.Exec(t, f.Hosts[0], "ip", "-o", "addr"), "192.0.2.100/")

	rows, err := float.List(t.Context(), f.store)
	require.NoError(t, err)
	require.Len(t, rows, 1)
	require.Equal(t, float.Row{Addr: float4, Scope: keys.OfGroup("edge"), Dev: lab.MachineLink, Holder: keys.Holder{Host: name(1), Serving: true}, Epoch: rows[0].Epoch}, rows[0])
	require.Equal(t, uint64(3), rows[0].Epoch.Number)
	_, err = float.Create(t.Context(), f.store, keys.OfGroup("edge"), float4, "eth1")
	require.ErrorIs(t, err, nat.ErrConflict)
	created, err := float.Create(t.Context(), f.store, keys.OfGroup("edge"), float4, lab.MachineLink)
	require.NoError(t, err)
	require.False(t, created)
	require.ErrorIs(t, float.Remove(t.Context(), f.store, keys.All(), float4), nat.ErrNotFound)
}
