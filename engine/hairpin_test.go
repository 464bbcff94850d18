// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/hairpin"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// A port is put back with the last mapping to the last backend behind it, however that
// goes.
func TestHairpinIsShared(t *testing.T) {
	b := withBridges()
	e := b.open(t)
	publish(t, e, "80->172.30.0.2:80", "81->172.30.0.2:80", "82->[fd00:30::2]:80", "83->172.30.0.3:80")
	require.Equal(t, []string{"port1", "port2"}, b.bridges.on())
	unpublish(t, e, "80->172.30.0.2:80", "83->172.30.0.3:80")
	require.Equal(t, []string{"port1"}, b.bridges.on())
	_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, mapAll(t, "81->172.30.0.3:80")...)
	require.NoError(t, err)
	require.Equal(t, []string{"port1", "port2"}, b.bridges.on())
	require.Equal(t, []string{"172.30.0.3 port2", "fd00:30::2 port1"}, recordsOf(t, b, e))
	_, err = e.Apply(t.Context(), mapAll(t, "127.0.0.1:82->172.30.0.2:80", "81->172.30.0.3:80")...)
	require.NoError(t, err)
	require.Equal(t, []string{"port2"}, b.bridges.on())
	require.NoError(t, e.Purge(t.Context()))
	require.Empty(t, b.bridges.on())

	// A mapping that has expired is removed at the next call.
	e = b.open(t)
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, leaseFor(t, b, "80->172.30.0.2:80", 1e9))
	require.NoError(t, err)
	require.Equal(t, []string{"port1"}, b.bridges.on())
	b.clock.advance(1e9)
	publish(t, e, "90->10.9.0.2:80")
	require.Empty(t, b.bridges.on())
	require.Empty(t, recordsOf(t, b, e))
}

// Whatever fails, ports and record are as they were; and a port has the mode only while
// it is recorded.
func TestHairpinIsRestored(t *testing.T) {
	cause := errors.New("no")
	b := withBridges()
	b.bridges.setting = func(port string, on bool) {
		recorded := strings.Contains(b.kernel.Dump(), `"`+port+`"`)
		require.True(t, recorded, "%s is to be %t", port, on)
	}
	spoil := func(ops ...string) {
		b.kernel.Hook(func(op string) error {
			if slices.Contains(ops, op) {
				return cause
			}
			return nil
		})
		b.flows.hook = nil
		if slices.Contains(ops, "flows") {
			b.flows.hook = func(string) error { return cause }
		}
	}
	e := b.open(t)
	publish(t, e, "79->10.9.0.2:80")
	for _, op := range []string{"Update", "flows"} {
		spoil(op)
		_, err := e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "80->172.30.0.2:80/udp"))
		require.ErrorIs(t, err, cause)
		require.Empty(t, b.bridges.on(), op)
		spoil()
		require.Empty(t, recordsOf(t, b, e))
	}
	publish(t, e, "80->172.30.0.2:80/udp")
	for _, op := range []string{"Update", "flows"} {
		spoil(op)
		_, err := e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "80->172.30.0.2:80/udp")}})
		require.ErrorIs(t, err, cause)
		require.Equal(t, []string{"port1"}, b.bridges.on(), op)
		spoil()
		require.Equal(t, []string{"172.30.0.2 port1"}, recordsOf(t, b, e))
	}
	spoil("DeleteTable")
	require.ErrorIs(t, e.Purge(t.Context()), cause)
	require.Equal(t, []string{"port1"}, b.bridges.on())
	spoil()

	// A port that cannot be put back stays recorded until it can.
	b.bridges.fail = cause
	unpublish(t, e, "80->172.30.0.2:80/udp")
	require.Equal(t, []string{"172.30.0.2 port1"}, recordsOf(t, b, e))
	b.bridges.fail = nil
	publish(t, e, "81->10.9.0.2:80")
	require.Empty(t, b.bridges.on())
	require.Empty(t, recordsOf(t, b, e))
}

// The next engine corrects what an engine that was killed has left.
func TestHairpinIsAdopted(t *testing.T) {
	b := withBridges()
	publish(t, b.open(t), "80->172.30.0.2:80", "81->172.30.0.3:80")
	b.bridges.setMode(fakePort1, false)
	b.open(t)
	require.Equal(t, []string{"port1", "port2"}, b.bridges.on())

	// The record holds without the neighbour: nobody needs to be found.
	clear(b.bridges.hosts)
	e := b.open(t)
	unpublish(t, e, "80->172.30.0.2:80")
	require.Equal(t, []string{"port2"}, b.bridges.on())

	// A deleted port, and another interface with its name.
	delete(b.bridges.links, fakePort2)
	e = b.open(t)
	require.Empty(t, recordsOf(t, b, e))
	b.bridges.links[fakePort2] = hairpin.Link{Index: fakePort2, Name: "port2", Kind: "veth", Hairpin: true}
	unpublish(t, e, "81->172.30.0.3:80")
	require.Equal(t, []string{"port2"}, b.bridges.on())

	// A record of a backend that is not published.
	b = withBridges()
	publish(t, b.open(t), "80->172.30.0.2:80", "81->172.30.0.3:80")
	require.NoError(t, b.kernel.Conn().Update(schema.Ruleset(DefaultTable), nft.Change{Delete: []nft.Element{schema.PortKey(portset.Of(nattest.Mapping(t, "80->172.30.0.2:80")))}}))
	require.Equal(t, []string{"172.30.0.3 port2"}, recordsOf(t, b, b.open(t)))
	require.Equal(t, []string{"port2"}, b.bridges.on())

	// A reader changes nothing.
	b.bridges.asked = 0
	_, err := b.tryOpen(Options{ReadOnly: true})
	require.NoError(t, err)
	require.Zero(t, b.bridges.asked)
}

// A table that somebody has deleted is made again with its records.
func TestHairpinTableMadeAgain(t *testing.T) {
	b := withBridges()
	e := b.open(t)
	publish(t, e, "80->172.30.0.2:80")
	require.NoError(t, b.kernel.Conn().DeleteTable(DefaultTable))
	publish(t, e, "81->172.30.0.3:80")
	require.Equal(t, []string{"172.30.0.2 port1", "172.30.0.3 port2"}, recordsOf(t, b, e))
	require.NoError(t, e.Purge(t.Context()))
	require.Empty(t, b.bridges.on())
}

// In any order of changes, restarts and moves, a port has hairpin mode if a backend
// that is published is behind it, or if it had it before.
func TestHairpinRandom(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		b := withBridges()
		before := r.IntN(2) == 0
		if before {
			b.bridges.setMode(fakePort2, true)
		}
		backends := []string{"172.30.0.2", "[fd00:30::2]", "172.30.0.3", "10.9.0.2"}
		e := b.open(t)
		for range 60 {
			port := 80 + r.IntN(6)
			text := fmt.Sprintf("%d->%s:80", port, backends[r.IntN(len(backends))])
			switch r.IntN(8) {
			case 0, 1, 2, 3:
				_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, nattest.Mapping(t, text))
				require.NoError(t, err)
			case 4, 5:
				if _, err := e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, text)}}); err != nil {
					require.ErrorIs(t, err, nat.ErrNotFound)
				}
			case 6:
				_, err := e.Apply(t.Context(), nattest.Mapping(t, text))
				require.NoError(t, err)
			case 7:
				e = b.open(t)
			}
			want := map[string]bool{}
			for _, m := range must(e.Mappings(t.Context())) {
				switch m.Backend.Addr().String() {
				case "172.30.0.2", "fd00:30::2":
					want["port1"] = true
				case "172.30.0.3":
					want["port2"] = true
				}
			}
			want["port2"] = want["port2"] || before
			for _, name := range []string{"port1", "port2"} {
				require.Equal(t, want[name], slices.Contains(b.bridges.on(), name), "seed %d: %s", seed, name)
			}
			recordsOf(t, b, e)
		}
	}
}

// An engine runs also where it cannot watch bridges, and ignores them when it is closed.
func TestRunWithBridges(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1, BridgeNF: true})
	for _, watching := range []bool{true, false} {
		b := withBridges()
		e := b.open(t)
		n, err := hostnet.OpenNamespace(top.Host.Path())
		require.NoError(t, err)
		if watching {
			require.NoError(t, e.core.hairpins.Open(hostnet.Sysctls{Namespace: n})) // for its watch
			e.core.hairpins.Use(b.bridges)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := e.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		publish(t, e, "80->172.30.0.2:80")
		require.Equal(t, []string{"port1"}, b.bridges.on())
		if watching {
			require.Eventually(t, func() bool {
				b.bridges.mu.Lock()
				defer b.bridges.mu.Unlock()
				return b.bridges.listed
			}, 10*time.Second, time.Millisecond)
		}
		require.NoError(t, e.Close())
		labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostPort1, "down")
		labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostPort1, "up")
		cancel()
		running.Wait()
		require.NoError(t, n.Close())
	}
}
