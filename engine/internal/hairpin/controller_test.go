// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hairpin

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/addrmap"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
)

// Which ports get hairpin mode, and which do not.
func TestPolicy(t *testing.T) {
	tests := map[string]struct {
		prepare  func(*fakeBridges)
		backends []string
		on       []string
		records  []string
		log      string
	}{
		"veth": {backends: []string{"172.30.0.2"}, on: []string{"port1"}, records: []string{"172.30.0.2 port1"}},
		"tap":  {backends: []string{"172.30.0.3"}, on: []string{"port2"}, records: []string{"172.30.0.3 port2"}},
		"one port for both families": {
			backends: []string{"172.30.0.2", "fd00:30::2"}, on: []string{"port1"},
			records: []string{"172.30.0.2 port1", "fd00:30::2 port1"},
		},
		"physical": {backends: []string{"172.30.0.9"}, log: "port=eth5"},
		"a name that no comment can hold": {
			prepare:  func(f *fakeBridges) { f.change(fakePort1, func(l *Link) { l.Name = "[x]" }) },
			backends: []string{"172.30.0.2"}, log: "port=[x]",
		},
		"on before": {
			prepare:  func(f *fakeBridges) { f.change(fakePort1, func(l *Link) { l.Hairpin = true }) },
			backends: []string{"172.30.0.2"}, on: []string{"port1"},
		},
		"no hooks": {
			prepare: func(f *fakeBridges) { f.hooks = Hooks{} }, backends: []string{"172.30.0.2", "fd00:30::2"},
		},
		"no br_netfilter": {
			prepare: func(f *fakeBridges) {
				f.noFilter = true
				f.change(fakeBridge, func(l *Link) { l.Hooks = Hooks{true, true} })
			},
			backends: []string{"172.30.0.2"},
		},
		"hooks of one family": {
			prepare:  func(f *fakeBridges) { f.hooks = Hooks{IPv6: true} },
			backends: []string{"172.30.0.3", "fd00:30::2"}, on: []string{"port1"}, records: []string{"fd00:30::2 port1"},
		},
		"hooks of the bridge": {
			prepare: func(f *fakeBridges) {
				f.hooks = Hooks{}
				f.change(fakeBridge, func(l *Link) { l.Hooks = Hooks{IPv4: true} })
			},
			backends: []string{"172.30.0.3", "fd00:30::2"}, on: []string{"port2"}, records: []string{"172.30.0.3 port2"},
		},
		"nobody": {backends: []string{"172.30.0.77"}},
		"another segment, a gateway": {
			backends: []string{"10.9.0.2", "203.0.113.1"},
		},
		"unknown, for an error": {
			prepare: func(f *fakeBridges) {
				f.fail = func(op string) error { return map[string]error{"neighbour": errors.New("no luck")}[op] }
			},
			backends: []string{"172.30.0.2"}, log: "no luck",
		},
		"the port cannot": {
			prepare: func(f *fakeBridges) {
				f.fail = func(op string) error { return map[string]error{"setHairpin": errors.New("no luck")}[op] }
			},
			// Recorded for who comes later: what is off is not put back.
			backends: []string{"172.30.0.2"}, records: []string{"172.30.0.2 port1"}, log: "no luck",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMachine()
			if test.prepare != nil {
				test.prepare(m.bridges)
			}
			before := m.bridges.on()
			var log bytes.Buffer
			m.log = slog.New(slog.NewTextHandler(&log, nil))
			c := m.open()
			m.publish(t, c, test.backends...)
			require.ElementsMatch(t, test.on, m.bridges.on())
			require.ElementsMatch(t, test.records, m.recordsOf(t, c))
			require.Contains(t, log.String(), test.log)
			m.unpublish(t, c, test.backends...)
			require.Equal(t, before, m.bridges.on())
			require.Empty(t, m.recordsOf(t, c))
		})
	}
}

// A controller corrects what an engine that was killed has left.
func TestAdopt(t *testing.T) {
	m := newMachine()
	m.publish(t, m.open(), "172.30.0.2", "172.30.0.3")
	m.bridges.change(fakePort1, func(l *Link) { l.Hairpin = false })
	m.open()
	require.Equal(t, []string{"port1", "port2"}, m.bridges.on())

	// The record holds without the neighbour: nobody needs to be found.
	clear(m.bridges.known)
	clear(m.bridges.hosts)
	c := m.open()
	m.unpublish(t, c, "172.30.0.2")
	require.Equal(t, []string{"port2"}, m.bridges.on())

	// A deleted port, and another interface with its name.
	delete(m.bridges.links, fakePort2)
	c = m.open()
	require.Empty(t, m.recordsOf(t, c))
	m.bridges.links[fakePort2] = Link{Index: fakePort2, Name: "port2", Kind: "veth", Hairpin: true}
	m.unpublish(t, c, "172.30.0.3")
	require.Equal(t, []string{"port2"}, m.bridges.on())

	// A record of a backend that is not published.
	m = newMachine()
	m.publish(t, m.open(), "172.30.0.2", "172.30.0.3")
	delete(m.published, netip.MustParseAddr("172.30.0.2"))
	require.Equal(t, []string{"172.30.0.3 port2"}, m.recordsOf(t, m.open()))
	require.Equal(t, []string{"port2"}, m.bridges.on())
}

// A port that cannot be put back stays recorded until it can.
func TestPutBackAgain(t *testing.T) {
	m := newMachine()
	c := m.open()
	m.publish(t, c, "172.30.0.2")
	m.bridges.fail = func(op string) error { return map[string]error{"setHairpin": errors.New("no luck")}[op] }
	m.unpublish(t, c, "172.30.0.2")
	require.Equal(t, []string{"172.30.0.2 port1"}, m.recordsOf(t, c))
	m.bridges.fail = nil
	m.publish(t, c, "10.9.0.2")
	require.Empty(t, m.bridges.on())
	require.Empty(t, m.recordsOf(t, c))
}

// What ended by itself is released by the next Release, and undone changes are none.
func TestReleaseAndUndo(t *testing.T) {
	m := newMachine()
	c := m.open()
	m.publish(t, c, "172.30.0.2")
	m.published[netip.MustParseAddr("172.30.0.2")] = 0
	d := c.Plan(t.Context(), addrmap.Map[int32]{}, addrmap.Map[int32]{}, hostnet.RouteMap{})
	undo := d.PutBack()
	require.Empty(t, m.bridges.on())
	require.NoError(t, undo())
	require.Equal(t, []string{"port1"}, m.bridges.on())
	c.Release()
	require.Empty(t, m.bridges.on())
	require.Empty(t, m.recordsOf(t, c))

	var added addrmap.Map[int32]
	var routes hostnet.RouteMap
	added.Set(netip.MustParseAddr("172.30.0.3"), 1)
	routes.Set(netip.MustParseAddr("172.30.0.3"), &hostnet.Route{Bridge: fakeBridge})
	d = c.Plan(t.Context(), added, addrmap.Map[int32]{}, routes)
	undo = d.SwitchOn()
	require.Equal(t, []string{"port2"}, m.bridges.on())
	require.NoError(t, undo())
	require.Empty(t, m.bridges.on())
}

// How often the kernel is asked does not grow with what is published, and where no
// bridge calls netfilter it is hardly asked.
func TestCost(t *testing.T) {
	many := func(backend func(int) string) []string {
		backends := make([]string, 2000)
		for i := range backends {
			backends[i] = backend(i)
		}
		return backends
	}
	one := func(int) string { return "172.30.0.2" }
	t.Run("many to one", func(t *testing.T) {
		m := newMachine()
		c := m.open()
		m.publish(t, c, many(one)...)
		// Once in vain, once when it was asked; its bridge, and its port.
		require.Equal(t, map[string]int{"hooked": 1, "link": 2, "neighbour": 2, "solicit": 1, "fdb": 1, "setHairpin": 1}, m.bridges.asked)
		m.bridges.asked = map[string]int{}
		m.unpublish(t, c, many(one)...)
		require.Equal(t, map[string]int{"link": 1, "setHairpin": 1}, m.bridges.asked)
	})
	t.Run("many to many", func(t *testing.T) {
		m := newMachine()
		other := func(i int) string { return fmt.Sprintf("172.30.0.%d", 10+i%200) }
		for i := range 200 {
			m.bridges.attach(other(i), fakePort1)
		}
		m.publish(t, m.open(), many(other)...)
		require.Equal(t, map[string]int{"hooked": 1, "link": 2, "neighbour": 400, "solicit": 200, "fdb": 1, "setHairpin": 1}, m.bridges.asked)
	})
	t.Run("nobody waits for a crowd", func(t *testing.T) {
		m := newMachine()
		other := func(i int) string { return fmt.Sprintf("172.30.0.%d", 2+i%250) }
		six := func(i int) string { return fmt.Sprintf("fd00:30::%x", 2+i%250) }
		m.publish(t, m.open(), append(many(other), many(six)...)...)
		require.Zero(t, m.bridges.asked["solicit"])
		require.Equal(t, 500, m.bridges.asked["neighbour"])
	})
	t.Run("no hooks", func(t *testing.T) {
		m := newMachine()
		m.bridges.hooks = Hooks{}
		c := m.open()
		m.publish(t, c, many(one)...)
		m.unpublish(t, c, many(one)...)
		require.Equal(t, map[string]int{"hooked": 1, "link": 1}, m.bridges.asked)
	})
	t.Run("no bridge", func(t *testing.T) {
		m := newMachine()
		c := m.open()
		elsewhere := func(int) string { return "10.9.0.2" }
		m.publish(t, c, many(elsewhere)...)
		m.unpublish(t, c, many(elsewhere)...)
		require.Empty(t, m.bridges.asked)
	})
}

// Without br_netfilter, and only then, hooks are not there.
func TestReadHooks(t *testing.T) {
	s := hostnet.Sysctls{Namespace: &hostnet.Namespace{}, Root: t.TempDir()}
	write := func(name, value string) {
		file := path.Join(s.Root, name)
		require.NoError(t, os.MkdirAll(path.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(value+"\n"), 0o600))
	}
	_, err := readHooks(s)
	require.ErrorIs(t, err, fs.ErrNotExist)
	write(bridgeHooks4, "1")
	write(bridgeHooks6, "0")
	h, err := readHooks(s)
	require.NoError(t, err)
	require.Equal(t, Hooks{IPv4: true}, h)
	require.NoError(t, os.Remove(path.Join(s.Root, bridgeHooks6)))
	write(bridgeHooks6+"/x", "1")
	_, err = readHooks(s)
	require.Error(t, err)
	require.NotErrorIs(t, err, fs.ErrNotExist)
}

// In any order of changes, restarts and rechecks, a port has hairpin mode if a published
// backend is behind it, or if it had it before.
func TestRandom(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		m := newMachine()
		before := r.IntN(2) == 0
		m.bridges.change(fakePort2, func(l *Link) { l.Hairpin = before })
		backends := []string{"172.30.0.2", "fd00:30::2", "172.30.0.3", "172.30.0.9", "10.9.0.2"}
		c := m.open()
		for range 60 {
			backend, other := backends[r.IntN(len(backends))], backends[r.IntN(len(backends))]
			published := m.published[netip.MustParseAddr(backend)] > 0
			switch r.IntN(6) {
			case 0, 1:
				m.publish(t, c, backend)
			case 2:
				if published {
					m.unpublish(t, c, backend)
				}
			case 3:
				if published {
					m.change(t, c, []string{other}, []string{backend})
				}
			case 4:
				c = m.open()
			case 5:
				c.recheckAll(func() error { return nil })
			}
			want := map[string]bool{"port2": before || m.published[netip.MustParseAddr("172.30.0.3")] > 0}
			for _, a := range []string{"172.30.0.2", "fd00:30::2"} {
				want["port1"] = want["port1"] || m.published[netip.MustParseAddr(a)] > 0
			}
			for _, name := range []string{"port1", "port2", "eth5"} {
				require.Equal(t, want[name], slices.Contains(m.bridges.on(), name), "seed %d: %s", seed, name)
			}
			m.recordsOf(t, c)
		}
	}
}
