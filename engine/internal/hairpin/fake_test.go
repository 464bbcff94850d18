// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hairpin

import (
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/addrmap"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
)

// fakeBridges are the bridges of a machine. Hosts behind their ports answer every
// solicitation.
type fakeBridges struct {
	mu       sync.Mutex
	links    map[int]Link
	hosts    map[netip.Addr]fakeHost // that answer
	known    map[netip.Addr]HardwareAddr
	seen     map[HardwareAddr]int
	hooks    Hooks
	noFilter bool                       // there is no br_netfilter
	fail     func(op string) error      // called before each; an error is its
	asked    map[string]int             // how often, by operation
	setting  func(port string, on bool) // called before a mode is set
}

type fakeHost struct {
	mac  HardwareAddr
	port int
}

// The bridge of the fake machine, with 172.30.0.0/24 and fd00:30::/64, and its ports.
const (
	fakeBridge = 10
	fakePort1  = 11 // veth
	fakePort2  = 12 // tap
	fakeNIC    = 13 // a physical interface
)

func newFakeBridges() *fakeBridges {
	f := &fakeBridges{
		links: map[int]Link{
			fakeBridge: {Index: fakeBridge, Name: "br0", Kind: kindBridge},
			fakePort1:  {Index: fakePort1, Name: "port1", Kind: "veth", Bridge: fakeBridge},
			fakePort2:  {Index: fakePort2, Name: "port2", Kind: "tun", Bridge: fakeBridge},
			fakeNIC:    {Index: fakeNIC, Name: "eth5", Bridge: fakeBridge},
		},
		hosts: map[netip.Addr]fakeHost{}, known: map[netip.Addr]HardwareAddr{}, seen: map[HardwareAddr]int{},
		hooks: Hooks{true, true}, asked: map[string]int{},
	}
	f.attach("172.30.0.2", fakePort1)
	f.attach("fd00:30::2", fakePort1)
	f.attach("172.30.0.3", fakePort2)
	f.attach("172.30.0.9", fakeNIC)
	return f
}

// attach puts a host behind a port.
func (f *fakeBridges) attach(addr string, port int) {
	f.hosts[netip.MustParseAddr(addr)] = fakeHost{HardwareAddr{2, byte(port)}, port}
}

func (f *fakeBridges) call(op string) error {
	f.asked[op]++
	if f.fail != nil {
		return f.fail(op)
	}
	return nil
}

func (f *fakeBridges) Link(index int) (Link, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("link"); err != nil {
		return Link{}, err
	}
	l, ok := f.links[index]
	if !ok {
		return Link{}, fs.ErrNotExist
	}
	return l, nil
}

func (f *fakeBridges) Ports() ([]Link, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("ports"); err != nil {
		return nil, err
	}
	var ports []Link
	for _, l := range f.links {
		if l.Bridge != 0 {
			l.Kind = ""
			ports = append(ports, l)
		}
	}
	return ports, nil
}

func (f *fakeBridges) Hooks() (Hooks, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("hooked"); err != nil {
		return Hooks{}, err
	}
	if f.noFilter {
		return Hooks{}, fs.ErrNotExist
	}
	return f.hooks, nil
}

func (f *fakeBridges) Neighbour(link int, a netip.Addr) (HardwareAddr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("neighbour"); err != nil {
		return HardwareAddr{}, err
	}
	mac, ok := f.known[a]
	if !ok || link != fakeBridge {
		return HardwareAddr{}, fs.ErrNotExist
	}
	return mac, nil
}

func (f *fakeBridges) Neighbours() ([]Neighbour, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("neighbours"); err != nil {
		return nil, err
	}
	var all []Neighbour
	for a, mac := range f.known {
		all = append(all, Neighbour{fakeBridge, a, mac})
	}
	return all, nil
}

func (f *fakeBridges) Solicit(_ int, a netip.Addr, _ bool) error {
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

func (f *fakeBridges) FDB(bridge Link, macs []HardwareAddr) (map[HardwareAddr]int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("fdb"); err != nil {
		return nil, err
	}
	found := map[HardwareAddr]int{}
	for _, mac := range macs {
		if port, ok := f.seen[mac]; ok && bridge.Index == fakeBridge {
			found[mac] = port
		}
	}
	return found, nil
}

func (f *fakeBridges) SetHairpin(port int, on bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("setHairpin"); err != nil {
		return err
	}
	l, ok := f.links[port]
	if !ok || l.Bridge == 0 {
		return fs.ErrNotExist
	}
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

// change makes a link what the function makes of it.
func (f *fakeBridges) change(index int, how func(*Link)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.links[index]
	how(&l)
	f.links[index] = l
}

// machine is what outlives a controller: bridges, and an engine's table and mappings.
type machine struct {
	bridges   *fakeBridges
	published map[netip.Addr]int
	records   map[netip.Addr]string
	noTable   bool
	refused   error // of Record
	log       *slog.Logger
}

func newMachine() *machine {
	return &machine{
		bridges: newFakeBridges(), published: map[netip.Addr]int{}, records: map[netip.Addr]string{},
		log: slog.New(slog.DiscardHandler),
	}
}

func (m *machine) Published(a netip.Addr) int { return m.published[a] }

func (m *machine) BridgeOf(a netip.Addr) (int, bool) {
	inside := netip.MustParsePrefix("172.30.0.0/24").Contains(a) || netip.MustParsePrefix("fd00:30::/64").Contains(a)
	return fakeBridge, inside
}

func (m *machine) CanRecord() bool { return !m.noTable }

func (m *machine) Record(removed, added []Record) error {
	if m.refused != nil {
		return m.refused
	}
	for _, r := range removed {
		delete(m.records, r.Backend)
	}
	for _, r := range added {
		m.records[r.Backend] = r.Port
	}
	return nil
}

// open makes a controller as an engine does that adopts the table.
func (m *machine) open() *Controller {
	c := New(m, m.log)
	c.Use(m.bridges)
	var records []Record
	for a, port := range m.records {
		records = append(records, Record{a, port})
	}
	c.Load(records)
	c.Adopt()
	return c
}

// change publishes and unpublishes a port for each backend, as an engine does.
func (m *machine) change(tb testing.TB, c *Controller, publish, unpublish []string) {
	tb.Helper()
	var added, removed addrmap.Map[int32]
	var routes hostnet.RouteMap
	for _, text := range publish {
		a := netip.MustParseAddr(text)
		added.Set(a, added.Of(a)+1)
		if bridge, ok := m.BridgeOf(a); ok {
			routes.Set(a, &hostnet.Route{Bridge: bridge})
		}
	}
	for _, text := range unpublish {
		a := netip.MustParseAddr(text)
		removed.Set(a, removed.Of(a)+1)
	}
	d := c.Plan(tb.Context(), added, removed, routes)
	if d != nil {
		d.PutBack()
	}
	require.NoError(tb, m.Record(c.Diff(d)))
	if d != nil {
		d.SwitchOn()
	}
	for a, n := range added.All {
		m.published[a] += int(n)
	}
	for a, n := range removed.All {
		m.published[a] -= int(n)
	}
	c.Commit(d)
}

func (m *machine) publish(tb testing.TB, c *Controller, backends ...string) {
	tb.Helper()
	m.change(tb, c, backends, nil)
}

func (m *machine) unpublish(tb testing.TB, c *Controller, backends ...string) {
	tb.Helper()
	m.change(tb, c, nil, backends)
}

// recordsOf lists the records that a controller has, and that its table has.
func (m *machine) recordsOf(tb testing.TB, c *Controller) []string {
	tb.Helper()
	lines := []string{}
	records := map[netip.Addr]string{}
	for _, r := range c.Records(nil) {
		lines = append(lines, r.Backend.String()+" "+r.Port)
		records[r.Backend] = r.Port
	}
	require.Equal(tb, m.records, records)
	return lines
}
