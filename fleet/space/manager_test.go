// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package space

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/fleet/internal/etcdtest"
	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/nat"
)

// heldBy returns how many blocks a host holds, as etcd has it.
func heldBy(t *testing.T, s *store.Store, pool, host string) int {
	t.Helper()
	all, _, err := List(t.Context(), s)
	require.NoError(t, err)
	for _, one := range all {
		if one.Name == pool {
			return len(one.Held[host])
		}
	}
	return 0
}

// TestSpace has the parts share an etcd, each with networks of its own.
func TestSpace(t *testing.T) {
	c := etcdtest.New(t, etcdtest.Options{Hosts: 1})
	s := openStore(t, c, c.Client)
	t.Cleanup(func() { _ = s.Close() })
	for name, test := range map[string]func(*testing.T, *etcdtest.Cluster, *store.Store){
		"blocks come and go": blocksComeAndGo, "cyclic": cyclic, "certain addresses": certainAddresses, "bad input": badInput,
		"networks of this host": networksOfThisHost, "ports": ports, "restart": restart, "forget": forget, "full": full, "unknown outcome": unknownOutcome,
		"closed": closed, "away": away,
	} {
		t.Run(name, func(t *testing.T) { test(t, c, s) })
		snap, err := s.List(t.Context(), keys.Spaces)
		require.NoError(t, err)
		for _, e := range snap.Entries {
			_, err := s.Client().Delete(t.Context(), s.Key(e.Key))
			require.NoError(t, err)
		}
	}
}

// A host acquires a block when there is little room, and gives back what is empty.
func blocksComeAndGo(t *testing.T, _ *etcdtest.Cluster, s *store.Store) {
	t.Helper()
	d := shared(t, s, "n", "10.60.0.0/22", 26)
	a := start(t, s, "h", newFakeDaemon())
	require.Zero(t, heldBy(t, s, "n", "h"), "it acquires a block before anybody asks")
	lease := func(first, last int) {
		for i := first; i <= last; i++ {
			ep, err := a.Lease(t.Context(), spec("n", fmt.Sprint("e", i)))
			require.NoError(t, err)
			require.True(t, d.Prefix.Contains(ep.Address))
		}
	}
	lease(1, 1)
	require.Equal(t, 1, heldBy(t, s, "n", "h"))
	lease(1, 1) // the same again
	lease(2, 46)
	require.Equal(t, 1, heldBy(t, s, "n", "h"))
	lease(47, 48) // 14 are free, less than a quarter
	holds := func(want int) {
		t.Helper()
		eventually(t, func() error {
			if n := heldBy(t, s, "n", "h"); n != want {
				return fmt.Errorf("%d blocks are held, want %d", n, want)
			}
			return nil
		})
	}
	holds(2)
	for i := 48; i > 1; i-- {
		_, err := a.Release(t.Context(), "n", fmt.Sprint("e", i))
		require.NoError(t, err)
	}
	holds(1)
	_, err := a.Release(t.Context(), "n", "e1")
	require.NoError(t, err)
	_, err = a.Release(t.Context(), "n", "e1")
	require.ErrorIs(t, err, nat.ErrNotFound)
	// What others detach is noticed, too.
	lease(1, 100)
	for i := range 99 {
		_, err := a.daemon.Detach(t.Context(), fmt.Sprint("e", i+1))
		require.NoError(t, err)
	}
	holds(1)
	err = Remove(t.Context(), s, "n")
	require.ErrorIs(t, err, nat.ErrConflict)
	require.ErrorContains(t, err, "shared network n is taken by blocks of host h")
	// With the last endpoint the last block goes, after a while.
	_, err = a.Release(t.Context(), "n", "e100")
	require.NoError(t, err)
	eventually(t, func() error { return Remove(t.Context(), s, "n") })
}

// Addresses are leased in cyclic order over the blocks of a host: one that was released comes again after all others.
func cyclic(t *testing.T, _ *etcdtest.Cluster, s *store.Store) {
	t.Helper()
	shared(t, s, "n", "10.60.0.0/22", 26)
	a := start(t, s, "h", newFakeDaemon())
	pinned := 0
	lease := func() netip.Addr {
		pinned++
		ep, err := a.Lease(t.Context(), spec("n", fmt.Sprint("e", pinned)))
		require.NoError(t, err)
		return ep.Address
	}
	for range 100 { // of two blocks
		lease()
	}
	for range 300 {
		released, err := a.daemon.Endpoint(t.Context(), fmt.Sprint("e", pinned))
		require.NoError(t, err)
		_, err = a.Release(t.Context(), "n", released.Name)
		require.NoError(t, err)
		require.NotEqual(t, released.Address, lease())
	}
	eventually(t, func() error {
		if n := heldBy(t, s, "n", "h"); n != 2 {
			return fmt.Errorf("%d blocks are held", n)
		}
		return nil
	})
}

func certainAddresses(t *testing.T, _ *etcdtest.Cluster, s *store.Store) {
	t.Helper()
	d := shared(t, s, "n", "10.60.0.0/22", 26)
	a, b := start(t, s, "a", newFakeDaemon()), start(t, s, "b", newFakeDaemon())
	first, err := a.Lease(t.Context(), spec("n", "x"))
	require.NoError(t, err)
	certain := func(name string, addr netip.Addr) nat.EndpointSpec {
		e := spec("n", name)
		e.Address = addr
		return e
	}
	last := first.Address
	for range 7 {
		last = last.Next()
	}
	ep, err := a.Lease(t.Context(), certain("y", last))
	require.NoError(t, err)
	require.Equal(t, last, ep.Address)
	_, err = b.Lease(t.Context(), certain("z", last.Next()))
	require.ErrorIs(t, err, nat.ErrConflict)
	index, _ := d.BlockOf(last)
	require.ErrorContains(t, err, "is taken by host a, with its block "+d.BlockPrefix(index).String())
	_, err = b.Lease(t.Context(), certain("z", netip.MustParseAddr("10.61.0.1")))
	require.ErrorIs(t, err, nat.ErrInvalid)
	nobody := (index + 1) % d.Blocks()
	if heldBy(t, s, "n", "a") == 1 {
		_, err = b.Lease(t.Context(), certain("z", d.BlockPrefix(nobody).Addr().Next().Next()))
		require.ErrorIs(t, err, nat.ErrInvalid)
		require.ErrorContains(t, err, "it is in block "+d.BlockPrefix(nobody).String()+", which this host does not hold")
	}
	require.Zero(t, heldBy(t, s, "n", "b"))
}

// Bad input changes nothing.
func badInput(t *testing.T, _ *etcdtest.Cluster, s *store.Store) {
	t.Helper()
	shared(t, s, "n", "10.60.0.0/16", 26)
	before, err := s.List(t.Context(), keys.Spaces)
	require.NoError(t, err)
	same, err := Create(t.Context(), s, define("n", "10.60.0.0/16", 0), nil)
	require.NoError(t, err)
	require.Equal(t, 26, same.Block)
	local := []nat.Network{{Name: "inside", Prefix: netip.MustParsePrefix("10.70.3.0/24")}}
	for text, d := range map[string]Definition{
		"shared network n {prefix: \"10.60.0.0/16\", block: 26} exists already":                        define("n", "10.61.0.0/16", 26),
		"prefix 10.60.4.0/22 is taken by shared network n 10.60.0.0/16":                                define("m", "10.60.4.0/22", 26),
		"prefix 10.56.0.0/13 is taken by shared network n 10.60.0.0/16":                                define("m", "10.56.0.0/13", 26),
		"prefix 10.70.0.0/16 of shared network m is taken by network inside 10.70.3.0/24 of this host": define("m", "10.70.0.0/16", 26),
		"it is too small for two blocks":                                                               define("m", "10.80.0.0/30", 0),
	} {
		_, err := Create(t.Context(), s, d, local)
		require.ErrorContains(t, err, text)
	}
	require.ErrorIs(t, Remove(t.Context(), s, "m"), nat.ErrNotFound)
	_, err = Forget(t.Context(), s, "nobody")
	require.ErrorIs(t, err, nat.ErrNotFound)
	require.ErrorIs(t, Resume(t.Context(), s), nat.ErrNotFound)
	after, err := s.List(t.Context(), keys.Spaces)
	require.NoError(t, err)
	require.Equal(t, before.Entries, after.Entries)
	a := start(t, s, "h", newFakeDaemon())
	_, err = a.Lease(t.Context(), spec("m", "e"))
	require.ErrorIs(t, err, nat.ErrNotFound)
	_, err = a.Lease(t.Context(), spec("n", "e/f"))
	require.ErrorIs(t, err, nat.ErrInvalid)
	_, err = a.Lease(t.Context(), spec("n/m", "e"))
	require.ErrorIs(t, err, nat.ErrInvalid)
	require.NoError(t, Remove(t.Context(), s, "n"))
	eventually(t, func() error {
		if _, err := a.Lease(t.Context(), spec("n", "e")); err == nil {
			t.Fatal("a network that was removed leases")
		} else if !strings.Contains(err.Error(), "there is no shared network") {
			return err
		}
		return nil
	})
}

// A network of a host that overlaps a shared one keeps that host from leasing, and from holding a block.
func networksOfThisHost(t *testing.T, _ *etcdtest.Cluster, s *store.Store) {
	t.Helper()
	shared(t, s, "n", "10.60.0.0/16", 26)
	daemon := newFakeDaemon()
	_, err := daemon.CreateNetwork(t.Context(), nat.Network{Name: "inside", Prefix: netip.MustParsePrefix("10.60.3.0/24")})
	require.NoError(t, err)
	a := start(t, s, "h", daemon)
	_, err = a.Lease(t.Context(), spec("n", "e"))
	require.ErrorIs(t, err, nat.ErrConflict)
	require.ErrorContains(t, err, "lease e of n: prefix 10.60.0.0/16 of shared network n is taken by network inside 10.60.3.0/24 of this host")
	require.Zero(t, heldBy(t, s, "n", "h"))
	require.NoError(t, daemon.RemoveNetwork(t.Context(), "inside"))
	_, err = a.Lease(t.Context(), spec("n", "e"))
	require.NoError(t, err)
}

// Ports of a shared address are of one host at a time, for each protocol.
func ports(t *testing.T, _ *etcdtest.Cluster, s *store.Store) {
	t.Helper()
	a, b := start(t, s, "a", newFakeDaemon()), start(t, s, "b", newFakeDaemon())
	addr := netip.MustParseAddr("192.0.2.80")
	want := nat.Mapping{Proto: nat.TCP, Frontend: netip.AddrPortFrom(addr, 0), Backend: netip.MustParseAddrPort("10.1.0.2:80"), Name: "web"}
	pool := keys.PortPool(nat.TCP, addr)
	seen := map[uint16]bool{}
	publish := func(h *agent) nat.Mapping {
		got, err := h.Publish(t.Context(), nat.PublishOptions{}, want)
		require.NoError(t, err)
		require.False(t, seen[got.Frontend.Port()], "%s again", got)
		require.GreaterOrEqual(t, got.Frontend.Port(), uint16(49153))
		require.Equal(t, "shared:web", got.Name)
		seen[got.Frontend.Port()] = true
		return got
	}
	var last nat.Mapping
	for range 70 {
		publish(a)
		last = publish(b)
	}
	require.Equal(t, 2, heldBy(t, s, pool, "a"))
	udp := want
	udp.Proto = nat.UDP
	_, err := a.Publish(t.Context(), nat.PublishOptions{}, udp)
	require.NoError(t, err)
	require.Equal(t, 1, heldBy(t, s, keys.PortPool(nat.UDP, addr), "a"))
	// They are the record after a restart; what is unpublished by hand is given back.
	b.end()
	b = start(t, s, "b", b.daemon)
	all, err := b.daemon.Mappings(t.Context())
	require.NoError(t, err)
	for _, o := range all {
		if o.Frontend != last.Frontend {
			b.daemon.unpublish(o.Proto, o.Frontend)
		}
	}
	eventually(t, func() error {
		if n := heldBy(t, s, pool, "b"); n != 1 {
			return fmt.Errorf("%d blocks are held", n)
		}
		return nil
	})
	for text, bad := range map[string]nat.Mapping{
		"a shared port is of an address that hosts share": {Proto: nat.TCP, Frontend: netip.AddrPortFrom(netip.IPv4Unspecified(), 0), Backend: want.Backend},
		"the port of a shared address is chosen":          {Proto: nat.TCP, Frontend: netip.AddrPortFrom(addr, 80), Backend: want.Backend},
	} {
		_, err := a.Publish(t.Context(), nat.PublishOptions{}, bad)
		require.ErrorIs(t, err, nat.ErrInvalid)
		require.ErrorContains(t, err, text)
	}
}

// An agent that is killed goes on with what its daemon has, and where that has left off.
func restart(t *testing.T, _ *etcdtest.Cluster, s *store.Store) {
	t.Helper()
	shared(t, s, "n", "10.60.0.0/22", 26)
	a := start(t, s, "h", newFakeDaemon())
	first, err := a.Lease(t.Context(), spec("n", "e1"))
	require.NoError(t, err)
	a.end()
	a = start(t, s, "h", a.daemon)
	again, err := a.Lease(t.Context(), spec("n", "e1"))
	require.NoError(t, err)
	require.Equal(t, first, again)
	second, err := a.Lease(t.Context(), spec("n", "e2"))
	require.NoError(t, err)
	require.Equal(t, first.Address.Next(), second.Address)
	require.Equal(t, 1, heldBy(t, s, "n", "h"))
	// A daemon that lost its networks: what etcd has of it is given back.
	a.end()
	start(t, s, "h", newFakeDaemon())
	eventually(t, func() error {
		if n := heldBy(t, s, "n", "h"); n != 0 {
			return fmt.Errorf("%d blocks are held", n)
		}
		return nil
	})
}

// The blocks of a dead host are taken from it by the operator, and it hears of that when it comes back.
func forget(t *testing.T, _ *etcdtest.Cluster, s *store.Store) {
	t.Helper()
	d := shared(t, s, "n", "10.60.0.0/28", 29) // two blocks
	a, b := start(t, s, "a", newFakeDaemon()), start(t, s, "b", newFakeDaemon())
	for i := range 6 {
		_, err := a.Lease(t.Context(), spec("n", fmt.Sprint("e", i)))
		require.NoError(t, err)
	}
	_, err := b.Lease(t.Context(), spec("n", "x"))
	require.ErrorIs(t, err, nat.ErrExhausted)
	require.ErrorContains(t, err, "shared network n is full: its 2 blocks are held by a 2")
	_, err = s.Client().Put(t.Context(), s.Key(keys.Host("a")), "")
	require.NoError(t, err)
	_, err = Forget(t.Context(), s, "a")
	require.ErrorIs(t, err, nat.ErrConflict)
	require.ErrorContains(t, err, "name a is taken by an agent that runs")
	a.end()
	_, err = s.Client().Delete(t.Context(), s.Key(keys.Host("a")))
	require.NoError(t, err)
	freed, err := Forget(t.Context(), s, "a")
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"n " + d.BlockPrefix(0).String(), "n " + d.BlockPrefix(1).String()}, freed)
	eventually(t, func() error { _, err := b.Lease(t.Context(), spec("n", "x")); return err })
	a = start(t, s, "a", a.daemon)
	eventually(t, func() error {
		faults := a.Faults()
		if len(faults) != 1 || !strings.Contains(faults[0], "is held by this host and by host b") {
			return fmt.Errorf("it says %q", faults)
		}
		return nil
	})
	// It leases from the block that is not in dispute alone.
	held := a.daemon
	for range 10 {
		ep, err := a.Lease(t.Context(), spec("n", fmt.Sprint("f", len(held.leases))))
		if err != nil {
			break
		}
		x, err := b.daemon.Endpoint(t.Context(), "x")
		require.NoError(t, err)
		mine, _ := d.BlockOf(ep.Address)
		theirs, _ := d.BlockOf(x.Address)
		require.NotEqual(t, theirs, mine)
	}
	_, err = b.Release(t.Context(), "n", "x")
	require.NoError(t, err)
}

func full(t *testing.T, _ *etcdtest.Cluster, s *store.Store) {
	t.Helper()
	shared(t, s, "n", "10.60.0.0/28", 29)
	a := start(t, s, "h", newFakeDaemon())
	for i := range 10 {
		_, err := a.Lease(t.Context(), spec("n", fmt.Sprint("e", i)))
		require.NoError(t, err)
	}
	_, err := a.Lease(t.Context(), spec("n", "x"))
	require.ErrorIs(t, err, nat.ErrExhausted)
	_, err = a.Release(t.Context(), "n", "e7")
	require.NoError(t, err)
	_, err = a.Lease(t.Context(), spec("n", "x"))
	require.NoError(t, err)
}

// A block that was acquired without an answer is found and given back.
func unknownOutcome(t *testing.T, _ *etcdtest.Cluster, s *store.Store) {
	t.Helper()
	shared(t, s, "n", "10.60.0.0/22", 26)
	a := prepare(t, s, "h", newFakeDaemon())
	commit := a.commit
	lost := true
	a.commit = func(ctx context.Context, ifs []compare, then ...operation) (bool, int64, error) {
		key, _ := keys.ParseSpaceKey(strings.TrimPrefix(string(then[0].KeyBytes()), s.Key("")))
		if lost && key.IsBlock { // made a second later
			lost = false
			go func() {
				time.Sleep(time.Second)
				_, _, _ = commit(ctx, ifs, then...) // whatever it says
			}()
			return false, 0, store.ErrUnknown
		}
		return commit(ctx, ifs, then...)
	}
	a.run(t)
	_, err := a.Lease(t.Context(), spec("n", "e1"))
	require.ErrorIs(t, err, store.ErrUnknown)
	_, err = a.Lease(t.Context(), spec("n", "e1"))
	require.NoError(t, err)
	time.Sleep(1100 * time.Millisecond) // the longest that the other may take to be made
	eventually(t, func() error {
		if n := heldBy(t, s, "n", "h"); n != 1 {
			return fmt.Errorf("%d blocks are held", n)
		}
		return nil
	})
}

// The operator can have hosts lease before all have claimed.
func closed(t *testing.T, _ *etcdtest.Cluster, s *store.Store) {
	t.Helper()
	shared(t, s, "n", "10.60.0.0/22", 26)
	a, b := start(t, s, "a", newFakeDaemon()), start(t, s, "b", newFakeDaemon())
	for _, h := range []*agent{a, b} {
		_, err := h.Lease(t.Context(), spec("n", "e-"+h.host))
		require.NoError(t, err)
	}
	b.end()
	a.mu.Lock()
	a.restore = true
	a.mu.Unlock()
	a.wake()
	eventually(t, func() error {
		if _, err := a.Lease(t.Context(), spec("n", "f")); err == nil {
			t.Fatal("it leases")
		} else if !strings.Contains(err.Error(), "(missing: b)") {
			return err
		}
		return nil
	})
	require.NoError(t, Resume(t.Context(), s))
	eventually(t, func() error { _, err := a.Lease(t.Context(), spec("n", "f")); return err })
}

// While etcd is away, hosts lease from the blocks they hold, at once, and say what they wait for when these are full.
func away(t *testing.T, c *etcdtest.Cluster, s *store.Store) {
	t.Helper()
	shared(t, s, "n", "10.60.0.0/24", 29) // of 5 addresses
	own := openStore(t, c, c.Hosts[0])
	t.Cleanup(func() { _ = own.Close() })
	a := start(t, own, "h", newFakeDaemon())
	_, err := a.Lease(t.Context(), spec("n", "e0"))
	require.NoError(t, err)
	require.NoError(t, c.LAN.Cut(c.Hosts[0]))
	begun := time.Now()
	leased := 1
	for ; ; leased++ {
		if _, err = a.Lease(t.Context(), spec("n", fmt.Sprint("e", leased))); err != nil {
			break
		}
		require.Less(t, time.Since(begun), time.Second, "a lease waits for etcd")
	}
	require.GreaterOrEqual(t, leased, 5)
	require.ErrorIs(t, err, store.ErrUnavailable)
	_, err = a.Release(t.Context(), "n", "e0")
	require.NoError(t, err)
	_, err = a.Lease(t.Context(), spec("n", "f"))
	require.NoError(t, err)
	require.NoError(t, c.LAN.Reconnect(c.Hosts[0]))
	eventually(t, func() error { _, err := a.Lease(t.Context(), spec("n", "g")); return err })
}
