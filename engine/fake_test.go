// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/hooks"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/table"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/internal/nfttest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// The machine that the fakes make: two local addresses of each family; segments on
// which backends lie; everything else behind a gateway.
const (
	local4, otherLocal4 = "192.0.2.1", "192.0.2.9"
	local6, otherLocal6 = "2001:db8:1::1", "2001:db8:1::9"
	inside4, inside6    = "172.30.0.0/24", "fd00:30::/64"
	farther4            = "10.9.0.0/16"
)

// testbed is what outlives an engine: the kernel with its clock, and the host.
type testbed struct {
	kernel *nfttest.Kernel
	flows  *fakeFlows
	host   *fakeHost
	clock  *fakeClock
	sysctl string // the directory that stands for /proc/sys
	// bridges are none unless a test has some.
	bridges *fakeBridges
	// owning lets engines own the table. Else others can change it, as most tests do,
	// and a killed engine needs no funeral.
	owning bool
	// older is whether the kernel cannot count elements.
	older bool
	// store is none unless a test has one.
	store *memoryStore
	// localhost is none unless a test has it: then engines lead localhost by eBPF.
	localhost *fakeLocalhost
	// connections are those of the host; asked is for which ports engines have asked.
	connections []hostnet.Connection
	asked       []hostnet.PortRange
}

func newTestbed() *testbed {
	b := &testbed{
		kernel: nfttest.New(), flows: &fakeFlows{}, host: newFakeHost(),
		clock:  &fakeClock{now: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)},
		sysctl: "testdata/nosuch", // until a sysctl is written
	}
	b.kernel.Now = b.clock.Now
	return b
}

// writeSysctl makes the file of a sysctl.
func (b *testbed) writeSysctl(tb testing.TB, name, value string) {
	tb.Helper()
	if b.sysctl == "testdata/nosuch" {
		b.sysctl = tb.TempDir()
	}
	file := path.Join(b.sysctl, name)
	require.NoError(tb, os.MkdirAll(path.Dir(file), 0o755))
	require.NoError(tb, os.WriteFile(file, []byte(value+"\n"), 0o600))
}

func (b *testbed) readSysctl(tb testing.TB, name string) string {
	tb.Helper()
	v, err := hostnet.Sysctls{Root: b.sysctl}.Read(name)
	require.NoError(tb, err)
	return v
}

// tryOpen is Open on the testbed. Unless the sysctl tree has the files for it, ask
// for NoSysctl.
func (b *testbed) tryOpen(opts Options) (*Engine, error) {
	opts.NoOwner = !b.owning
	if b.store != nil {
		opts.Store = b.store
	}
	e := newEngine(opts.withDefaults())
	e.core.namespace = &hostnet.Namespace{}
	e.core.now = b.clock.Now
	e.core.flows, e.core.host = b.flows, b.host
	e.core.listConnections = func(at hostnet.PortRange, f func(hostnet.Connection)) error {
		b.asked = append(b.asked, at)
		for _, c := range b.connections {
			if port := c.Local.Port(); at.First <= port && port <= at.Last {
				f(c)
			}
		}
		return nil
	}
	if b.localhost != nil && !opts.ReadOnly {
		e.core.programs.Localhost = hooks.NewLocalhost(b.localhost)
	}
	if b.bridges != nil && !opts.ReadOnly {
		e.core.hairpins.Use(b.bridges)
	}
	e.core.table.Dial = func() (table.Kernel, error) {
		if b.older {
			return olderKernel{b.kernel.Conn()}, nil
		}
		return b.kernel.Conn(), nil
	}
	if err := e.core.table.Open(); err != nil {
		return e, err
	}
	e.core.forwarding = e.core.newForwarding(hostnet.Sysctls{Namespace: e.core.namespace, Root: b.sysctl})
	return e, e.core.start(context.Background())
}

// open opens an engine that leaves sysctls alone. It is for the test to close or to
// kill: a killed engine is one that is not used any more.
func (b *testbed) open(tb testing.TB) *Engine {
	tb.Helper()
	return b.openWith(tb, Options{NoSysctl: true})
}

func (b *testbed) openWith(tb testing.TB, opts Options) *Engine {
	tb.Helper()
	e, err := b.tryOpen(opts)
	require.NoError(tb, err)
	return e
}

// openFake opens an engine on a testbed of its own.
func openFake(tb testing.TB) (*Engine, *testbed) {
	tb.Helper()
	b := newTestbed()
	return b.open(tb), b
}

// publishedBy lists the mappings as text, ranges as one, names after a space: none of an
// engine that is closed.
func publishedBy(e *Engine) []string {
	ms, err := e.Mappings(context.Background())
	if err != nil && !errors.Is(err, nat.ErrClosed) {
		panic(err)
	}
	var lines []string
	for _, m := range nat.Collapse(ms) {
		lines = append(lines, inWords(m))
	}
	return lines
}

func inWords(m nat.Mapping) string {
	text := m.String()
	if m.Name != "" {
		text += " " + m.Name
	}
	if m.NoProxy {
		text += " no-proxy"
	}
	if m.ProxyOnly {
		text += " proxy-only"
	}
	if m.Masquerade {
		text += " masquerade"
	}
	if !m.From.IsZero() {
		text += " from " + m.From.String()
	}
	if !m.Expires.IsZero() {
		text += " until " + m.Expires.Format("15:04:05.999")
	}
	return text
}

// publish publishes mappings given as text.
func publish(tb testing.TB, e *Engine, texts ...string) []nat.Mapping {
	tb.Helper()
	done, err := e.Publish(tb.Context(), nat.PublishOptions{}, mapAll(tb, texts...)...)
	require.NoError(tb, err)
	return done
}

func mapAll(tb testing.TB, texts ...string) []nat.Mapping {
	tb.Helper()
	ms := make([]nat.Mapping, len(texts))
	for i, text := range texts {
		ms[i] = nattest.Mapping(tb, text)
	}
	return ms
}

// fakeClock is the time, of the engine and of its kernel.
type fakeClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// fakeFlows is a conntrack table.
type fakeFlows struct {
	mu     sync.Mutex
	flows  []conntrack.Flow
	passes []conntrack.Filter    // what Delete was asked for
	hook   func(op string) error // called before Delete and Each; an error is its
	closed int
}

func (t *fakeFlows) Count() (entries, limit int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.flows), 0, nil
}

// Delete filters as conntrack.Conn.Delete does: the filter, then match.
func (t *fakeFlows) Delete(f conntrack.Filter, match func(conntrack.Flow) bool) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.passes = append(t.passes, f)
	if t.hook != nil {
		if err := t.hook("Delete"); err != nil {
			return 0, err
		}
	}
	before := len(t.flows)
	t.flows = slices.DeleteFunc(t.flows, func(flow conntrack.Flow) bool {
		return inFilter(f, flow) && match(flow)
	})
	return before - len(t.flows), nil
}

func inFilter(f conntrack.Filter, flow conntrack.Flow) bool {
	dst := flow.Dst.Addr()
	switch {
	case f.Proto != 0 && flow.Proto != f.Proto, f.Unanswered && flow.Status&conntrack.StatusSeenReply != 0,
		f.Translated && flow.Status&conntrack.StatusDNAT == 0:
		return false
	case f.FirstPort != 0 && (flow.Dst.Port() < f.FirstPort || flow.Dst.Port() > max(f.FirstPort, f.LastPort)):
		return false
	case !f.Dst.IsValid():
		return true
	case f.Dst.IsUnspecified():
		return dst.Is4() == f.Dst.Is4()
	}
	return dst == f.Dst
}

func (t *fakeFlows) Each(f conntrack.Filter, yield func(conntrack.Flow) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hook != nil {
		if err := t.hook("Each"); err != nil {
			return err
		}
	}
	for _, flow := range t.flows {
		if inFilter(f, flow) {
			if err := yield(flow); err != nil {
				return err
			}
		}
	}
	return nil
}

// Create creates what there is not yet. A test sees by the hook when.
func (t *fakeFlows) Create(connections []conntrack.Connection) (created int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hook != nil {
		if err := t.hook("Create"); err != nil {
			return 0, err
		}
	}
	for _, c := range connections {
		if slices.ContainsFunc(t.flows, func(f conntrack.Flow) bool {
			return f.Proto == uint8(nat.TCP) && f.Src == c.Client && f.Dst == c.Server
		}) {
			continue
		}
		created++
		t.flows = append(t.flows, conntrack.Flow{
			Proto: uint8(nat.TCP), Src: c.Client, Dst: c.Server, ReplySrc: c.Server, ReplyDst: c.Client,
			Status: conntrack.StatusSeenReply | conntrack.StatusAssured | conntrack.StatusConfirmed,
		})
	}
	return created, nil
}

func (t *fakeFlows) Close() error { t.closed++; return nil }

// fakeHost is a routing table. An address is looked up in routes, longest prefix
// first; what is in none of them is behind a gateway.
type fakeHost struct {
	mu         sync.Mutex
	routes     map[netip.Prefix]hostnet.Route
	interfaces []hostnet.Interface
	hook       func(op string) error // called before each look-up; an error is its
	asked      int
}

func newFakeHost() *fakeHost {
	h := &fakeHost{routes: map[netip.Prefix]hostnet.Route{}}
	for _, local := range []string{local4, otherLocal4, local6, otherLocal6, "127.0.0.1", "::1"} {
		a := netip.MustParseAddr(local)
		h.routes[netip.PrefixFrom(a, a.BitLen())] = hostnet.Route{Kind: hostnet.Local}
	}
	h.onLink("br0", inside4, inside6)
	h.onLink("eth1", farther4)
	return h
}

// onLink puts prefixes on the segment of an interface.
func (h *fakeHost) onLink(link string, prefixes ...string) {
	for _, p := range prefixes {
		h.routes[netip.MustParsePrefix(p)] = hostnet.Route{Kind: hostnet.Unicast, Link: link}
	}
}

func (h *fakeHost) Lookup(a netip.Addr) (hostnet.Route, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	if h.hook != nil {
		if err := h.hook("route"); err != nil {
			return hostnet.Route{}, err
		}
	}
	for bits := a.BitLen(); bits >= 0; bits-- {
		if r, ok := h.routes[netip.PrefixFrom(a, bits).Masked()]; ok {
			return r, nil
		}
	}
	return hostnet.Route{Kind: hostnet.Unicast, Link: "eth0"}, nil
}

func (h *fakeHost) LookupAll(addrs []netip.Addr) (found hostnet.RouteMap, err error) {
	for _, a := range addrs {
		r, err := h.Lookup(a)
		if err != nil {
			return hostnet.RouteMap{}, err
		}
		found.Set(a, &r)
	}
	return found, nil
}

// OnLink returns the prefixes of routes by each link that do not lie within others.
func (h *fakeHost) OnLink(links []string, is4 bool) (map[string][]netip.Prefix, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hook != nil {
		if err := h.hook("onLink"); err != nil {
			return nil, err
		}
	}
	found := map[string][]netip.Prefix{}
	for _, link := range links {
		var ps []netip.Prefix
		for p, r := range h.routes {
			if p.Addr().Is4() == is4 && (r.Link == link || slices.Contains(r.More, link)) {
				ps = append(ps, p)
			}
		}
		for _, p := range ps {
			if !slices.ContainsFunc(ps, func(q netip.Prefix) bool { return q != p && q.Overlaps(p) && q.Bits() < p.Bits() }) {
				found[link] = append(found[link], p)
			}
		}
	}
	return found, nil
}

// Overlap knows one bridge of networks, br0.
func (h *fakeHost) Overlap(n nat.Network) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hook != nil {
		if err := h.hook("routeElsewhere"); err != nil {
			return "", err
		}
	}
	for p, r := range h.routes {
		if p.Overlaps(n.Prefix) && r.Link != "br0" && (r.Kind != hostnet.Local || p.Addr() != n.Gateway) {
			return "the route " + p.String(), nil
		}
	}
	return "", nil
}

func (h *fakeHost) Interfaces() ([]hostnet.Interface, error) { return h.interfaces, nil }

// Addresses are none.
func (h *fakeHost) Addresses(bool) ([]netip.Addr, error) { return nil, nil }

func (h *fakeHost) Close() {}

// drop deletes the element whose text begins so, as another process would.
func (b *testbed) drop(tb testing.TB, text string) {
	tb.Helper()
	b.edit(tb, func(t *nfttest.Table) {
		before := len(t.Elements)
		t.Elements = slices.DeleteFunc(t.Elements, func(e nft.Element) bool { return strings.HasPrefix(e.String(), text) })
		require.Len(tb, t.Elements, before-1, "%s", text)
	})
}
