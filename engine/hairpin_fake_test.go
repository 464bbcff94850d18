// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// fakeBridges are the bridges of a machine. Hosts that are behind their ports answer
// whoever asks them.
type fakeBridges struct {
	mu       sync.Mutex
	links    map[int]bridgeLink
	hosts    map[netip.Addr]fakeStation // that answer
	known    map[netip.Addr]hardwareAddr
	seen     map[hardwareAddr]int
	hooks    hooks
	noFilter bool                       // there is no br_netfilter
	fail     func(op string) error      // called before each; an error is its
	asked    map[string]int             // how often, by operation
	setting  func(port string, on bool) // called before a mode is set
}

type fakeStation struct {
	mac  hardwareAddr
	port int
}

// The bridge of the fake machine, on which inside4 and inside6 are, and its ports.
const (
	fakeBridge = 10
	fakePort1  = 11 // veth
	fakePort2  = 12 // tap
	fakeNIC    = 13 // a physical interface
)

func newFakeBridges() *fakeBridges {
	f := &fakeBridges{
		links: map[int]bridgeLink{
			fakeBridge: {index: fakeBridge, name: "br0", kind: kindBridge},
			fakePort1:  {index: fakePort1, name: "port1", kind: "veth", bridge: fakeBridge},
			fakePort2:  {index: fakePort2, name: "port2", kind: "tun", bridge: fakeBridge},
			fakeNIC:    {index: fakeNIC, name: "eth5", bridge: fakeBridge},
		},
		hosts: map[netip.Addr]fakeStation{}, known: map[netip.Addr]hardwareAddr{}, seen: map[hardwareAddr]int{},
		hooks: hooks{true, true}, asked: map[string]int{},
	}
	f.attach("172.30.0.2", fakePort1)
	f.attach("fd00:30::2", fakePort1)
	f.attach("172.30.0.3", fakePort2)
	f.attach("172.30.0.9", fakeNIC)
	return f
}

// attach puts a host behind a port.
func (f *fakeBridges) attach(addr string, port int) {
	f.hosts[netip.MustParseAddr(addr)] = fakeStation{hardwareAddr{2, byte(port)}, port}
}

func (f *fakeBridges) call(op string) error {
	f.asked[op]++
	if f.fail != nil {
		return f.fail(op)
	}
	return nil
}

func (f *fakeBridges) link(index int) (bridgeLink, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("link"); err != nil {
		return bridgeLink{}, err
	}
	l, ok := f.links[index]
	if !ok {
		return bridgeLink{}, fs.ErrNotExist
	}
	return l, nil
}

func (f *fakeBridges) linkNamed(name string) (bridgeLink, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("linkNamed"); err != nil {
		return bridgeLink{}, err
	}
	for _, l := range f.links {
		if l.name == name {
			return l, nil
		}
	}
	return bridgeLink{}, fs.ErrNotExist
}

func (f *fakeBridges) ports() ([]bridgeLink, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("ports"); err != nil {
		return nil, err
	}
	var ports []bridgeLink
	for _, l := range f.links {
		if l.bridge != 0 {
			l.kind = ""
			ports = append(ports, l)
		}
	}
	return ports, nil
}

func (f *fakeBridges) portsNamed(names []string) (map[string]bridgeLink, error) {
	ports, err := f.ports()
	found := map[string]bridgeLink{}
	for _, l := range ports {
		if slices.Contains(names, l.name) {
			found[l.name] = l
		}
	}
	return found, err
}

func (f *fakeBridges) hooked() (hooks, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("hooked"); err != nil {
		return hooks{}, err
	}
	if f.noFilter {
		return hooks{}, fs.ErrNotExist
	}
	return f.hooks, nil
}

func (f *fakeBridges) neighbour(link int, a netip.Addr) (hardwareAddr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("neighbour"); err != nil {
		return hardwareAddr{}, err
	}
	mac, ok := f.known[a]
	if !ok || link != fakeBridge {
		return hardwareAddr{}, fs.ErrNotExist
	}
	return mac, nil
}

func (f *fakeBridges) neighbours() ([]neighbour, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("neighbours"); err != nil {
		return nil, err
	}
	var all []neighbour
	for a, mac := range f.known {
		all = append(all, neighbour{fakeBridge, a, mac})
	}
	return all, nil
}

func (f *fakeBridges) solicit(_ int, a netip.Addr, _ bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("solicit"); err != nil {
		return err
	}
	if h, ok := f.hosts[a]; ok {
		f.known[a], f.seen[h.mac] = h.mac, h.port
	}
	return nil
}

func (f *fakeBridges) stations(bridge bridgeLink, macs []hardwareAddr) (map[hardwareAddr]int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("stations"); err != nil {
		return nil, err
	}
	found := map[hardwareAddr]int{}
	for _, mac := range macs {
		if port, ok := f.seen[mac]; ok && bridge.index == fakeBridge {
			found[mac] = port
		}
	}
	return found, nil
}

func (f *fakeBridges) setHairpin(port int, on bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("setHairpin"); err != nil {
		return err
	}
	l, ok := f.links[port]
	if !ok || l.bridge == 0 {
		return fs.ErrNotExist
	}
	if f.setting != nil {
		f.setting(l.name, on)
	}
	l.hairpin = on
	f.links[port] = l
	return nil
}

func (f *fakeBridges) close() {}

// on lists the ports with hairpin mode.
func (f *fakeBridges) on() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	on := []string{}
	for _, l := range f.links {
		if l.hairpin {
			on = append(on, l.name)
		}
	}
	slices.Sort(on)
	return on
}

// change makes a link what the function makes of it.
func (f *fakeBridges) change(index int, how func(*bridgeLink)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.links[index]
	how(&l)
	f.links[index] = l
}

// withBridges is a testbed whose inside segments are on a bridge.
func withBridges() *testbed {
	b := newTestbed()
	b.bridges = newFakeBridges()
	for _, p := range []string{inside4, inside6} {
		prefix := netip.MustParsePrefix(p)
		r := b.host.routes[prefix]
		r.Bridge = fakeBridge
		b.host.routes[prefix] = r
	}
	return b
}

// recordsOf lists the records that an engine has, and that its kernel has.
func recordsOf(tb testing.TB, b *testbed, e *Engine) []string {
	tb.Helper()
	lines := []string{}
	for _, a := range slices.SortedFunc(maps.Keys(e.hairpins.records), netip.Addr.Compare) {
		lines = append(lines, fmt.Sprintf("%s %s", a, e.hairpins.records[a]))
	}
	requireConsistent(tb, b, e)
	return lines
}

func unpublish(tb testing.TB, e *Engine, texts ...string) {
	tb.Helper()
	_, err := e.Remove(tb.Context(), nat.Removal{Mappings: mapAll(tb, texts...)})
	require.NoError(tb, err)
}
