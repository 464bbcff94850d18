// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// Which ports get hairpin mode, and which do not.
func TestHairpinPolicy(t *testing.T) {
	tests := map[string]struct {
		world   func(*fakeBridges)
		texts   []string
		on      []string
		records []string
		log     string
	}{
		"veth": {texts: []string{"80->172.30.0.2:80"}, on: []string{"port1"}, records: []string{"172.30.0.2 port1"}},
		"tap":  {texts: []string{"80->172.30.0.3:80/udp"}, on: []string{"port2"}, records: []string{"172.30.0.3 port2"}},
		"one port for both families": {
			texts: []string{"80->172.30.0.2:80", "81->[fd00:30::2]:80"}, on: []string{"port1"},
			records: []string{"172.30.0.2 port1", "fd00:30::2 port1"},
		},
		"physical": {texts: []string{"80->172.30.0.9:80"}, log: "port=eth5"},
		"a name that no comment can hold": {
			world: func(f *fakeBridges) { f.change(fakePort1, func(l *bridgeLink) { l.name = "[x]" }) },
			texts: []string{"80->172.30.0.2:80"}, log: "port=[x]",
		},
		"on before": {
			world: func(f *fakeBridges) { f.change(fakePort1, func(l *bridgeLink) { l.hairpin = true }) },
			texts: []string{"80->172.30.0.2:80"}, on: []string{"port1"},
		},
		"no hooks": {
			world: func(f *fakeBridges) { f.hooks = hooks{} }, texts: []string{"80->172.30.0.2:80", "81->[fd00:30::2]:80"},
		},
		"no br_netfilter": {
			world: func(f *fakeBridges) {
				f.noFilter = true
				f.change(fakeBridge, func(l *bridgeLink) { l.hooks = hooks{true, true} })
			},
			texts: []string{"80->172.30.0.2:80"},
		},
		"hooks of one family": {
			world: func(f *fakeBridges) { f.hooks = hooks{six: true} },
			texts: []string{"80->172.30.0.3:80", "81->[fd00:30::2]:80"}, on: []string{"port1"}, records: []string{"fd00:30::2 port1"},
		},
		"hooks of the bridge": {
			world: func(f *fakeBridges) {
				f.hooks = hooks{}
				f.change(fakeBridge, func(l *bridgeLink) { l.hooks = hooks{four: true} })
			},
			texts: []string{"80->172.30.0.3:80", "81->[fd00:30::2]:80"}, on: []string{"port2"}, records: []string{"172.30.0.3 port2"},
		},
		"loopback": {texts: []string{"127.0.0.1:80->172.30.0.2:80", "[::1]:80->[fd00:30::2]:80"}},
		"nobody":   {texts: []string{"80->172.30.0.77:80"}},
		"another segment, a gateway": {
			texts: []string{"80->10.9.0.2:80", "81->203.0.113.1:80"},
		},
		"unknown, for an error": {
			world: func(f *fakeBridges) {
				f.fail = func(op string) error { return map[string]error{"neighbour": errors.New("no luck")}[op] }
			},
			texts: []string{"80->172.30.0.2:80"}, log: "no luck",
		},
		"the port cannot": {
			world: func(f *fakeBridges) {
				f.fail = func(op string) error { return map[string]error{"setHairpin": errors.New("no luck")}[op] }
			},
			// Recorded for who comes later: what is off is not put back.
			texts: []string{"80->172.30.0.2:80"}, records: []string{"172.30.0.2 port1"}, log: "no luck",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			b := withBridges()
			if test.world != nil {
				test.world(b.bridges)
			}
			before := b.bridges.on()
			var log bytes.Buffer
			e := b.openWith(t, Options{NoSysctl: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
			publish(t, e, test.texts...)
			require.ElementsMatch(t, test.on, b.bridges.on())
			require.ElementsMatch(t, test.records, recordsOf(t, b, e))
			require.Contains(t, log.String(), test.log)
			unpublish(t, e, test.texts...)
			require.Equal(t, before, b.bridges.on())
			require.Empty(t, recordsOf(t, b, e))
		})
	}
}

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

	// By itself: the mapping that has ended is let go of at the next call.
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
	b.bridges.fail = func(op string) error {
		if op == "setHairpin" {
			return cause
		}
		return nil
	}
	unpublish(t, e, "80->172.30.0.2:80/udp")
	require.Equal(t, []string{"172.30.0.2 port1"}, recordsOf(t, b, e))
	b.bridges.fail = nil
	publish(t, e, "81->10.9.0.2:80")
	require.Empty(t, b.bridges.on())
	require.Empty(t, recordsOf(t, b, e))
}

// What an engine that was killed has left is put right by the next.
func TestHairpinIsAdopted(t *testing.T) {
	b := withBridges()
	publish(t, b.open(t), "80->172.30.0.2:80", "81->172.30.0.3:80")
	b.bridges.change(fakePort1, func(l *bridgeLink) { l.hairpin = false })
	b.open(t)
	require.Equal(t, []string{"port1", "port2"}, b.bridges.on())

	// The record holds without the neighbour: nobody needs to be found.
	clear(b.bridges.known)
	clear(b.bridges.hosts)
	e := b.open(t)
	unpublish(t, e, "80->172.30.0.2:80")
	require.Equal(t, []string{"port2"}, b.bridges.on())

	// A port that has gone, and others of its name that are none of ours.
	delete(b.bridges.links, fakePort2)
	e = b.open(t)
	require.Empty(t, recordsOf(t, b, e))
	b.bridges.links[fakePort2] = bridgeLink{index: fakePort2, name: "port2", kind: "veth", hairpin: true}
	unpublish(t, e, "81->172.30.0.3:80")
	require.Equal(t, []string{"port2"}, b.bridges.on())

	// A record of a backend that is not published.
	b = withBridges()
	publish(t, b.open(t), "80->172.30.0.2:80", "81->172.30.0.3:80")
	require.NoError(t, b.kernel.Conn().Update(ruleset(DefaultTable), nft.Change{Delete: []nft.Element{elementKey(portset.Of(nattest.Mapping(t, "80->172.30.0.2:80")))}}))
	require.Equal(t, []string{"172.30.0.3 port2"}, recordsOf(t, b, b.open(t)))
	require.Equal(t, []string{"port2"}, b.bridges.on())

	// A reader changes nothing.
	b.bridges.asked = map[string]int{}
	_, err := b.tryOpen(Options{ReadOnly: true})
	require.NoError(t, err)
	require.Empty(t, b.bridges.asked)
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

// How often the kernel is asked does not grow with what is published, and where no
// bridge calls netfilter it is hardly asked.
func TestHairpinCost(t *testing.T) {
	many := func(backend func(int) string) []string {
		texts := make([]string, 2000)
		for i := range texts {
			texts[i] = fmt.Sprintf("%d->%s:80", i+1000, backend(i))
		}
		return texts
	}
	one := func(int) string { return "172.30.0.2" }
	t.Run("many to one", func(t *testing.T) {
		b := withBridges()
		e := b.open(t)
		publish(t, e, many(one)...)
		// Once in vain, once when it was asked; its bridge, and its port.
		require.Equal(t, map[string]int{"hooked": 1, "link": 2, "neighbour": 2, "solicit": 1, "stations": 1, "setHairpin": 1}, b.bridges.asked)
		b.bridges.asked = map[string]int{}
		unpublish(t, e, many(one)...)
		require.Equal(t, map[string]int{"linkNamed": 1, "setHairpin": 1}, b.bridges.asked)
	})
	t.Run("many to many", func(t *testing.T) {
		b := withBridges()
		other := func(i int) string { return fmt.Sprintf("172.30.0.%d", 10+i%200) }
		for i := range 200 {
			b.bridges.attach(other(i), fakePort1)
		}
		publish(t, b.open(t), many(other)...)
		require.Equal(t, map[string]int{"hooked": 1, "link": 2, "neighbour": 400, "solicit": 200, "stations": 1, "setHairpin": 1}, b.bridges.asked)
	})
	t.Run("nobody waits for a crowd", func(t *testing.T) {
		b := withBridges()
		other := func(i int) string { return fmt.Sprintf("172.30.0.%d", 2+i%250) }
		six := func(i int) string { return fmt.Sprintf("[fd00:30::%x]", 2+i%250) }
		texts := many(other)
		for i, text := range many(six) {
			texts = append(texts, strings.Replace(text, fmt.Sprint(i+1000), fmt.Sprint(i+4000), 1))
		}
		publish(t, b.open(t), texts...)
		require.Zero(t, b.bridges.asked["solicit"])
		require.Equal(t, 500, b.bridges.asked["neighbour"])
	})
	t.Run("no hooks", func(t *testing.T) {
		b := withBridges()
		b.bridges.hooks = hooks{}
		e := b.open(t)
		publish(t, e, many(one)...)
		unpublish(t, e, many(one)...)
		require.Equal(t, map[string]int{"hooked": 1, "link": 1}, b.bridges.asked)
	})
	t.Run("no bridge", func(t *testing.T) {
		b := withBridges()
		e := b.open(t)
		elsewhere := func(int) string { return "10.9.0.2" }
		publish(t, e, many(elsewhere)...)
		unpublish(t, e, many(elsewhere)...)
		require.Empty(t, b.bridges.asked)
	})
}

// What is not there when it is read is no reason to change anything else.
func TestReadBridgeHooks(t *testing.T) {
	b := newTestbed()
	s := func() hostnet.Sysctls { return hostnet.Sysctls{Namespace: &hostnet.Namespace{}, Root: b.sysctl} }
	_, err := readBridgeHooks(s())
	require.ErrorIs(t, err, fs.ErrNotExist)
	b.writeSysctl(t, bridgeHooks4, "1")
	b.writeSysctl(t, bridgeHooks6, "0")
	h, err := readBridgeHooks(s())
	require.NoError(t, err)
	require.Equal(t, hooks{four: true}, h)
	require.NoError(t, os.Remove(b.sysctl+"/"+bridgeHooks6))
	b.writeSysctl(t, bridgeHooks6+"/x", "1")
	_, err = readBridgeHooks(s())
	require.Error(t, err)
	require.NotErrorIs(t, err, fs.ErrNotExist)
}

// In any order of changes, restarts and moves, a port has hairpin mode if a backend
// that is published is behind it, or if it had it before.
func TestHairpinRandom(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		b := withBridges()
		before := r.IntN(2) == 0
		if before {
			b.bridges.change(fakePort2, func(l *bridgeLink) { l.hairpin = true })
		}
		backends := []string{"172.30.0.2", "[fd00:30::2]", "172.30.0.3", "172.30.0.9", "10.9.0.2"}
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
			for _, name := range []string{"port1", "port2", "eth5"} {
				require.Equal(t, want[name], slices.Contains(b.bridges.on(), name), "seed %d: %s", seed, name)
			}
			recordsOf(t, b, e)
		}
	}
}
