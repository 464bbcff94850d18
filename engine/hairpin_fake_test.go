// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"io/fs"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/hairpin"
	"github.com/nftnat/nftnat/nat"
)

// fakeBridges are one bridge with the backends of inside4 and inside6. The tests of
// package hairpin have more of them.
type fakeBridges struct {
	mu      sync.Mutex
	links   map[int]hairpin.Link
	hosts   map[netip.Addr]int         // the ports that backends are behind
	fail    error                      // of SetHairpin
	setting func(port string, on bool) // called before a mode is set
	asked   int
	listed  bool // Ports was called
}

const (
	fakeBridge = 10
	fakePort1  = 11
	fakePort2  = 12
)

// withBridges is a testbed whose inside segments are on a bridge.
func withBridges() *testbed {
	b := newTestbed()
	b.bridges = &fakeBridges{
		links: map[int]hairpin.Link{
			fakeBridge: {Index: fakeBridge, Name: "br0", Kind: "bridge"},
			fakePort1:  {Index: fakePort1, Name: "port1", Kind: "veth", Bridge: fakeBridge},
			fakePort2:  {Index: fakePort2, Name: "port2", Kind: "tun", Bridge: fakeBridge},
		},
		hosts: map[netip.Addr]int{
			netip.MustParseAddr("172.30.0.2"): fakePort1, netip.MustParseAddr("fd00:30::2"): fakePort1,
			netip.MustParseAddr("172.30.0.3"): fakePort2,
		},
	}
	for _, p := range []string{inside4, inside6} {
		prefix := netip.MustParsePrefix(p)
		r := b.host.routes[prefix]
		r.Bridge = fakeBridge
		b.host.routes[prefix] = r
	}
	return b
}

func (f *fakeBridges) Link(index int) (hairpin.Link, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	l, ok := f.links[index]
	if !ok {
		return l, fs.ErrNotExist
	}
	return l, nil
}

func (f *fakeBridges) Ports() (ports []hairpin.Link, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked, f.listed = f.asked+1, true
	for _, l := range f.links {
		if l.Bridge != 0 {
			ports = append(ports, l)
		}
	}
	return ports, nil
}

func (f *fakeBridges) Hooks() (hairpin.Hooks, error) {
	return hairpin.Hooks{IPv4: true, IPv6: true}, nil
}

func (f *fakeBridges) Neighbour(_ int, a netip.Addr) (hairpin.HardwareAddr, error) {
	port, ok := f.hosts[a]
	if !ok {
		return hairpin.HardwareAddr{}, fs.ErrNotExist
	}
	return hairpin.HardwareAddr{2, byte(port)}, nil
}

func (f *fakeBridges) Neighbours() ([]hairpin.Neighbour, error) { return nil, nil }

func (f *fakeBridges) Solicit(int, netip.Addr, bool) error { return nil }

func (f *fakeBridges) FDB(_ hairpin.Link, macs []hairpin.HardwareAddr) (map[hairpin.HardwareAddr]int, error) {
	found := map[hairpin.HardwareAddr]int{}
	for _, mac := range macs {
		found[mac] = int(mac[1])
	}
	return found, nil
}

func (f *fakeBridges) SetHairpin(port int, on bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	l := f.links[port]
	if f.setting != nil {
		f.setting(l.Name, on)
	}
	l.Hairpin = on
	f.links[port] = l
	return nil
}

func (f *fakeBridges) Close() error { return nil }

// on lists the ports with hairpin mode.
func (f *fakeBridges) on() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	on := []string{}
	for _, l := range f.links {
		if l.Hairpin {
			on = append(on, l.Name)
		}
	}
	slices.Sort(on)
	return on
}

// setMode switches a port as somebody else does.
func (f *fakeBridges) setMode(index int, on bool) {
	l := f.links[index]
	l.Hairpin = on
	f.links[index] = l
}

// recordsOf lists the records that an engine has, and that its kernel has.
func recordsOf(tb testing.TB, b *testbed, e *Engine) []string {
	tb.Helper()
	lines := []string{}
	for _, r := range e.core.hairpins.Records(nil) {
		lines = append(lines, r.Backend.String()+" "+r.Port)
	}
	requireConsistent(tb, b, e)
	return lines
}

func unpublish(tb testing.TB, e *Engine, texts ...string) {
	tb.Helper()
	_, err := e.Remove(tb.Context(), nat.Removal{Mappings: mapAll(tb, texts...)})
	require.NoError(tb, err)
}
