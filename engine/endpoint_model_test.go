// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/alloc"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// plainNetwork is a network and its allocator as plainly as can be.
type plainNetwork struct {
	nat.Network
	hosts []netip.Addr // what can be leased, in order
}

// plainEndpoint is an endpoint of the model.
type plainEndpoint struct {
	network string
	addr    netip.Addr
}

// endpointModel is the model of networks and endpoints: lists that are searched from end to end.
type endpointModel struct {
	*testing.T
	random    *rand.Rand
	bed       *testbed
	engine    *Engine
	networks  map[string]*plainNetwork
	endpoints map[string]plainEndpoint
	handles   map[string]*Endpoint // of this engine, also of endpoints that are gone
	mappings  []nat.Mapping
	seen      map[string]int
	call      string
}

func (m *endpointModel) taken(a netip.Addr) bool {
	for _, ep := range m.endpoints {
		if ep.addr == a {
			return true
		}
	}
	return false
}

// seek puts the cursor on the first free address from one on.
func (m *endpointModel) seek(n *plainNetwork, from netip.Addr) {
	n.Next = from
	start := slices.Index(n.hosts, from)
	for i := range n.hosts {
		if a := n.hosts[(start+i)%len(n.hosts)]; !m.taken(a) {
			n.Next = a
			return
		}
	}
}

func (m *endpointModel) full(n *plainNetwork) bool {
	return !slices.ContainsFunc(n.hosts, func(a netip.Addr) bool { return !m.taken(a) })
}

// The ports that are chosen from.
const modelFirst, modelLast = 200, 205

// The space in which they meet.
var (
	modelNetworks  = []string{"a 172.30.0.0/29", "b 172.30.0.0/30", "c 10.77.0.0/31", "d fd00:77::/126", "a 10.78.0.0/30", "e 10.9.3.0/24", "f 172.30.0.8/29"}
	modelEndpoints = []string{"web", "db", "dns", "x", "y", "z"}
	modelPorts     = []string{"80", "53/udp", "100:80", "101:81", "101:82/udp", local4 + ":102:80", "103-104:80-81", "127.0.0.1:105:80"}
)

func (m *endpointModel) open() {
	m.engine = m.bed.openWith(m.T, Options{NoSysctl: true, FirstPort: modelFirst, LastPort: modelLast})
	m.handles = map[string]*Endpoint{}
	for _, ep := range must(m.engine.Endpoints(context.Background())) {
		m.handles[ep.Name()] = ep
	}
}

func (m *endpointModel) play() {
	switch m.random.IntN(13) {
	case 0, 1:
		m.create()
	case 2:
		m.removeNetwork()
	case 3, 4, 5, 6:
		m.attach()
	case 7, 8:
		m.detach()
	case 9:
		m.publish()
	case 10:
		m.call = "reopen" // the engine before was killed, or closed
		if m.random.IntN(2) == 0 {
			require.NoError(m, m.engine.Close())
		}
		m.open()
	case 11:
		m.call = "flush"
		m.bed.kernel.Flush()
		// What is known comes back with a change, so one is made.
		_, err := m.engine.Publish(context.Background(), nat.PublishOptions{}, nattest.Mapping(m.T, "999->10.9.0.2:1"))
		require.NoError(m, err)
		_, err = m.engine.Remove(context.Background(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(m.T, "999->10.9.0.2:1")}})
		require.NoError(m, err)
	case 12:
		m.call = "reboot"
		m.bed.kernel.Flush()
		m.open()
	}
	m.check()
}

// outcomeOf puts an error into the model's words.
func (m *endpointModel) outcomeOf(err error) string {
	switch {
	case err == nil:
		return isDone
	case errors.Is(err, nat.ErrInvalid):
		return isInvalid
	case errors.Is(err, nat.ErrConflict):
		return isConflict
	case errors.Is(err, nat.ErrNotFound):
		return isNotFound
	case errors.Is(err, alloc.ErrExhausted):
		return isExhausted
	}
	require.NoError(m, err, m.call)
	return ""
}

func (m *endpointModel) create() {
	name, prefix, _ := strings.Cut(modelNetworks[m.random.IntN(len(modelNetworks))], " ")
	n := netOf(m.T, name, prefix)
	n.NoGuard, n.NoMasquerade = m.random.IntN(2) == 0, m.random.IntN(2) == 0
	m.call = "create " + n.String()
	want := isDone
	for _, have := range m.networks {
		if have.Name == name || have.Prefix.Overlaps(n.Prefix) {
			want = isConflict
		}
	}
	if n.Prefix.Overlaps(netip.MustParsePrefix(farther4)) {
		want = isConflict
	}
	again := m.networks[name]
	if again != nil && (again.Prefix != n.Prefix || again.NoGuard != n.NoGuard || again.NoMasquerade != n.NoMasquerade) {
		again = nil
	}
	if again != nil {
		want = isDone
	}
	made, err := m.engine.CreateNetwork(context.Background(), n)
	require.Equal(m, want, m.outcomeOf(err), "%s: %v", m.call, err)
	m.seen["network "+want]++
	if err != nil {
		return
	}
	if again != nil {
		m.seen["network again"]++
		require.Equal(m, again.Network, made)
		return
	}
	plain := &plainNetwork{Network: n}
	first := n.Prefix.Addr()
	for a := first; n.Prefix.Contains(a); a = a.Next() {
		whole := n.Prefix.Addr().BitLen()-n.Prefix.Bits() == 1
		last := !n.Prefix.Contains(a.Next()) && a.Is4()
		switch {
		case !whole && (a == first || last):
		case !plain.Gateway.IsValid():
			plain.Gateway = a
		default:
			plain.hosts = append(plain.hosts, a)
		}
	}
	plain.Next = plain.hosts[0]
	require.Equal(m, plain.Network, made)
	m.networks[name] = plain
}

func (m *endpointModel) removeNetwork() {
	name := []string{"a", "b", "c", "d", "f", "none"}[m.random.IntN(6)]
	m.call = "remove network " + name
	want := isDone
	if m.networks[name] == nil {
		want = isNotFound
	}
	for _, ep := range m.endpoints {
		if ep.network == name {
			want = isConflict
		}
	}
	err := m.engine.RemoveNetwork(context.Background(), name)
	require.Equal(m, want, m.outcomeOf(err), "%s: %v", m.call, err)
	m.seen["remove "+want]++
	if err == nil {
		delete(m.networks, name)
	}
}

// attach predicts everything but which ports are chosen.
func (m *endpointModel) attach() {
	a := nat.EndpointSpec{Name: modelEndpoints[m.random.IntN(len(modelEndpoints))], Network: []string{"a", "b", "c", "d", "f"}[m.random.IntN(5)]}
	for range m.random.IntN(3) {
		s, err := nat.ParsePortSpec(modelPorts[m.random.IntN(len(modelPorts))])
		require.NoError(m, err)
		a.Ports = append(a.Ports, s)
	}
	if have := m.endpoints[a.Name]; have != (plainEndpoint{}) && m.random.IntN(2) == 0 {
		a = m.sameAgain(a.Name, have)
	}
	n := m.networks[a.Network]
	if n != nil && m.random.IntN(3) == 0 {
		around := append(slices.Clone(n.hosts), n.Gateway, n.Prefix.Addr(), lastOf(n.Prefix), netip.MustParseAddr("10.1.1.1"))
		a.Address = around[m.random.IntN(len(around))]
	}
	m.call = fmt.Sprintf("attach %v", a)
	want, addr := m.judge(a, n)
	ep, err := m.engine.Attach(context.Background(), a)
	got := m.outcomeOf(err)
	m.seen["attach "+got]++
	if want == isDone && got == isExhausted && slices.ContainsFunc(a.Ports, func(s nat.PortSpec) bool { return s.Frontend.Port() == 0 }) {
		require.ErrorContains(m, err, "choose a port", m.call)
		return
	}
	require.Equal(m, want, got, "%s: %v", m.call, err)
	if err != nil {
		return
	}
	require.Equal(m, addr, ep.Address().Addr(), m.call)
	if m.handles[a.Name] == ep {
		m.seen["attach again"]++
		return
	}
	m.endpoints[a.Name] = plainEndpoint{a.Network, addr}
	m.handles[a.Name] = ep
	if addr == n.Next {
		m.seek(n, addr)
	}
	// What had the endpoint's name and led to its address before, is of it as well.
	published := slices.DeleteFunc(must(ep.Mappings(context.Background())), func(have nat.Mapping) bool { return slices.Contains(m.mappings, have) })
	fresh := slices.DeleteFunc(singles(a.Mappings(addr)), func(one nat.Mapping) bool { return slices.Contains(m.mappings, one) })
	require.Len(m, published, len(fresh)+chosen(a.Ports), m.call)
	m.mappings = append(m.mappings, published...)
}

func chosen(specs []nat.PortSpec) (n int) {
	for _, s := range specs {
		if s.Frontend.Port() == 0 {
			n += int(s.More) + 1
		}
	}
	return n
}

// judge says what must come of an endpoint spec, in the order in which an engine looks.
func (m *endpointModel) judge(a nat.EndpointSpec, n *plainNetwork) (outcome string, addr netip.Addr) {
	addr = a.Address
	switch {
	case m.isAttached(a):
		return isDone, m.endpoints[a.Name].addr
	case m.endpoints[a.Name] != (plainEndpoint{}):
		return isConflict, addr
	case n == nil:
		return isNotFound, addr
	case addr.IsValid() && !slices.Contains(n.hosts, addr):
		return isInvalid, addr
	case addr.IsValid() && m.taken(addr):
		return isConflict, addr
	case !addr.IsValid() && m.full(n):
		return isExhausted, addr
	case !addr.IsValid():
		addr = n.Next
	}
	ms := a.Mappings(addr)
	for _, one := range ms {
		if one.Validate() != nil {
			return isInvalid, addr
		}
	}
	if overlapping(ms) {
		return isInvalid, addr
	}
	for _, one := range singles(ms) {
		if slices.ContainsFunc(m.mappings, func(have nat.Mapping) bool { return have != one && excludes(have, one) }) {
			return isConflict, addr
		}
	}
	return isDone, addr
}

// portsOf are what is published of an endpoint.
func (m *endpointModel) portsOf(name string, ep plainEndpoint) (ms []nat.Mapping) {
	for _, have := range m.mappings {
		if have.Name == name && have.Backend.Addr() == ep.addr {
			ms = append(ms, have)
		}
	}
	return ms
}

// sameAgain returns a spec of an endpoint that exists, with parts written differently or
// left to be chosen.
func (m *endpointModel) sameAgain(name string, ep plainEndpoint) nat.EndpointSpec {
	a := nat.EndpointSpec{Name: name, Network: ep.network}
	ports := m.portsOf(name, ep)
	if m.random.IntN(2) == 0 {
		ports = nat.Collapse(ports)
	}
	for _, port := range ports {
		s, _ := nat.SpecOf(port)
		if m.random.IntN(2) == 0 {
			s.Frontend = netip.AddrPortFrom(s.Frontend.Addr(), 0)
		}
		a.Ports = append(a.Ports, s)
	}
	return a
}

// isAttached reports whether an endpoint is there just like that, trying whatever may have
// been chosen for ports that are.
func (m *endpointModel) isAttached(a nat.EndpointSpec) bool {
	ep := m.endpoints[a.Name]
	if ep == (plainEndpoint{}) || ep.network != a.Network || a.Address.IsValid() && a.Address != ep.addr {
		return false
	}
	return m.covers(a.Mappings(ep.addr), m.portsOf(a.Name, ep))
}

func (m *endpointModel) covers(asked, published []nat.Mapping) bool {
	if len(asked) == 0 {
		return len(published) == 0
	}
	candidates := []nat.Mapping{asked[0]}
	if asked[0].Frontend.Port() == 0 {
		candidates = nil
		for _, p := range published {
			one := asked[0]
			one.Frontend = p.Frontend
			if first := int(p.Frontend.Port()); first >= modelFirst && first+int(one.More) <= modelLast {
				candidates = append(candidates, one)
			}
		}
	}
	for _, one := range candidates {
		ports := slices.Collect(nat.Expand(one))
		left := slices.DeleteFunc(slices.Clone(published), func(p nat.Mapping) bool { return slices.Contains(ports, p) })
		if one.Frontend.Addr() == asked[0].Frontend.Addr() && len(left)+len(ports) == len(published) && m.covers(asked[1:], left) {
			return true
		}
	}
	return false
}

func (m *endpointModel) detach() {
	name := modelEndpoints[m.random.IntN(len(modelEndpoints))]
	ep, there := m.endpoints[name]
	m.call = "detach " + name
	if handle := m.handles[name]; handle != nil && m.random.IntN(2) == 0 {
		require.NoError(m, handle.Release(context.Background()), m.call)
	} else {
		_, err := m.engine.Detach(context.Background(), name)
		want := isDone
		if !there {
			want = isNotFound
		}
		require.Equal(m, want, m.outcomeOf(err), m.call)
		m.seen["detach "+want]++
	}
	if !there {
		return
	}
	n := m.networks[ep.network]
	wasFull := m.full(n)
	delete(m.endpoints, name)
	if wasFull {
		n.Next = ep.addr
	}
	m.mappings = slices.DeleteFunc(m.mappings, func(have nat.Mapping) bool { return have.Name == name && have.Backend.Addr() == ep.addr })
}

// publish adds or removes a mapping, to an endpoint or past all of them.
func (m *endpointModel) publish() {
	if len(m.mappings) > 0 && m.random.IntN(3) == 0 {
		i := m.random.IntN(len(m.mappings))
		m.call = "unpublish " + m.mappings[i].String()
		_, err := m.engine.Remove(context.Background(), nat.Removal{Mappings: []nat.Mapping{m.mappings[i]}})
		require.NoError(m, err)
		m.mappings = slices.Delete(m.mappings, i, i+1)
		return
	}
	one := nattest.Mapping(m.T, fmt.Sprintf("%d->172.30.0.%d:80", 100+m.random.IntN(12), 2+m.random.IntN(3)))
	one.Name = []string{"", "web", "other"}[m.random.IntN(3)]
	m.call = "publish " + one.String()
	want, again := isDone, slices.Contains(m.mappings, one)
	if !again && slices.ContainsFunc(m.mappings, func(have nat.Mapping) bool { return excludes(have, one) }) {
		want = isConflict
	}
	_, err := m.engine.Publish(context.Background(), nat.PublishOptions{}, one)
	require.Equal(m, want, m.outcomeOf(err), m.call)
	if err == nil && !again {
		m.mappings = append(m.mappings, one)
	}
}

func (m *endpointModel) check() {
	m.Helper()
	slices.SortFunc(m.mappings, nat.Compare)
	require.Equal(m, inAllWords(m.mappings), inAllWords(must(m.engine.Mappings(context.Background()))), m.call)
	s, err := m.engine.State(context.Background())
	require.NoError(m, err)
	require.Len(m, s.Networks, len(m.networks), m.call)
	for _, n := range s.Networks {
		require.Equal(m, m.networks[n.Name].Network, n, m.call)
	}
	require.Len(m, s.Endpoints, len(m.endpoints), m.call)
	for _, a := range s.Endpoints {
		require.Equal(m, plainEndpoint{a.Network, a.Address}, m.endpoints[a.Name], m.call)
	}
	requireConsistent(m.T, m.bed, m.engine)
	requireKept(m.T, m.bed, m.engine)
	if m.bed.kernel.Dump() == "" {
		return
	}
	// The same state is the same table, whatever the history.
	fresh := newTestbed()
	other := fresh.openWith(m.T, Options{NoSysctl: true, FirstPort: modelFirst, LastPort: modelLast})
	_, err = other.ApplyState(context.Background(), s)
	require.NoError(m, err, m.call)
	if fresh.kernel.Dump() != "" {
		require.Equal(m, fresh.kernel.Dump(), m.bed.kernel.Dump(), m.call)
	}
}

// Networks and endpoints against the model of them, in thousands of random steps.
func TestRandomEndpoints(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			m := &endpointModel{
				T: t, random: rand.New(rand.NewPCG(seed, 7)), bed: newTestbed(), seen: seen,
				networks: map[string]*plainNetwork{}, endpoints: map[string]plainEndpoint{},
			}
			m.bed.store = &memoryStore{}
			m.open()
			for range 250 {
				m.play()
			}
		})
	}
	for _, outcome := range []string{
		"network done", "network again", "network conflict", "remove done", "remove conflict", "remove not found",
		"attach done", "attach again", "attach conflict", "attach invalid", "attach not found", "attach exhausted", "detach done", "detach not found",
	} {
		require.Greater(t, seen[outcome], 10, "%s: too few to mean anything", outcome)
	}
}

// lastOf returns the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	first, bits := p.Masked().Addr().AsSlice(), net.CIDRMask(p.Bits(), p.Addr().BitLen())
	for i := range first {
		first[i] |= ^bits[i]
	}
	last, _ := netip.AddrFromSlice(first)
	return last
}
