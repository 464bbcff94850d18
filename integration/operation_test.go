// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/nat"
)

// operation is one call as a value, which processes can send to each other.
type operation struct {
	Verb string
	// Tag is the name of everything that the operation makes, and of nothing else.
	Tag      string
	Mappings []nat.Mapping
	Attach   *nat.EndpointSpec
	Network  *nat.Network
	Name     string // what is detached or removed
	State    *nat.State
}

// result is what the caller of an operation was told.
type result struct {
	Mappings []nat.Mapping
	Address  netip.Addr
	Err      string
}

// The verbs of operations.
const (
	verbPublish   = "publish"
	verbReplace   = "replace"
	verbUnpublish = "unpublish"
	verbKill      = "kill"
	verbAttach    = "attach"
	verbDetach    = "detach"
	verbRelease   = "release"
	verbCreate    = "create"
	verbRemove    = "remove"
	verbApply     = "apply"
)

// weightedVerb is a verb and how often it is chosen relative to the others.
type weightedVerb struct {
	verb   string
	weight int
}

func verbWeights() []weightedVerb {
	return []weightedVerb{
		{verbPublish, 6}, {verbReplace, 4}, {verbUnpublish, 4}, {verbKill, 2}, {verbAttach, 5},
		{verbDetach, 2}, {verbRelease, 2}, {verbCreate, 2}, {verbRemove, 1}, {verbApply, 3},
	}
}

// Random operations use few frontends, so that many conflict, and networks so small that
// they are full at times.
const (
	firstFrontendPort, frontendPorts = 8000, 24
	maxNetworks                      = 4
	enoughMappings                   = 40 // from here on, many operations are kills
)

// chooser chooses operations at random.
type chooser struct{ *rand.Rand }

func pick[T any](c chooser, from []T) T { return from[c.IntN(len(from))] }

// operation chooses an operation on a state. Not every one succeeds.
func (c chooser) operation(s nat.State, tag string) operation {
	total := 0
	for _, ch := range verbWeights() {
		total += ch.weight
	}
	at := c.IntN(total)
	verb := ""
	for _, ch := range verbWeights() {
		if at -= ch.weight; at < 0 {
			verb = ch.verb
			break
		}
	}
	if len(flat(s)) > enoughMappings && c.IntN(2) == 0 {
		verb = verbKill
	}
	d := operation{Verb: verb, Tag: tag}
	switch verb {
	case verbUnpublish, verbKill, verbReplace:
		if m, ok := c.part(s.Mappings); ok && c.IntN(3) != 0 {
			d.Mappings = []nat.Mapping{m}
			if verb == verbReplace {
				d.Mappings[0] = c.partElsewhere(m, tag)
			}
			break
		}
		d.Mappings = c.some(s.Mappings)
		if verb == verbReplace {
			for i := range d.Mappings {
				m := &d.Mappings[i]
				m.Name, m.Backend = tag, c.backend(m.Backend.Addr().Is6())
			}
		}
	case verbDetach, verbRelease:
		if len(s.Endpoints) != 0 {
			d.Name = pick(c, s.Endpoints).Name
		}
	case verbRemove:
		if len(s.Networks) != 0 {
			d.Name = pick(c, s.Networks).Name
		}
	case verbAttach:
		if len(s.Networks) != 0 {
			d.Attach = c.endpointSpec(pick(c, s.Networks), tag)
		}
	case verbApply:
		d.State = c.state(s, tag)
	}
	switch {
	case verb == verbCreate && len(s.Networks) < maxNetworks,
		len(s.Networks) == 0 && (verb == verbAttach || verb == verbRemove):
		d.Verb, d.Network = verbCreate, c.network(tag)
	case len(d.Mappings) == 0 && d.Attach == nil && d.Name == "" && d.State == nil:
		d.Verb, d.Mappings = verbPublish, c.mappings(tag)
	}
	return d
}

// some returns one to three single ports of the mappings.
func (c chooser) some(ms []nat.Mapping) (some []nat.Mapping) {
	var singles []nat.Mapping
	for _, m := range ms {
		singles = slices.AppendSeq(singles, nat.Expand(m))
	}
	for range min(1+c.IntN(3), len(singles)) {
		i := c.IntN(len(singles))
		some = append(some, singles[i])
		singles = slices.Delete(singles, i, i+1)
	}
	return some
}

// ofRange chooses an operation that gives a range another backend, or publishes one if there is none.
func (c chooser) ofRange(s nat.State, tag string) operation {
	m, ok := c.rangeOf(s.Mappings)
	if !ok {
		m = nat.Mapping{
			Proto: pick(c, []nat.Proto{nat.TCP, nat.UDP}), More: 3,
			Frontend: netip.AddrPortFrom(netip.Addr{}, uint16(firstFrontendPort+c.IntN(frontendPorts-3))),
			Backend:  c.backend(c.IntN(2) == 0),
		}
	}
	m.Name, m.Backend = tag, netip.AddrPortFrom(c.backend(m.Backend.Addr().Is6()).Addr(), m.Frontend.Port())
	return operation{Verb: verbReplace, Tag: tag, Mappings: []nat.Mapping{m}}
}

// rangeOf returns a range whose ports stay the same.
func (c chooser) rangeOf(ms []nat.Mapping) (m nat.Mapping, ok bool) {
	ms = slices.DeleteFunc(nat.Collapse(ms), func(m nat.Mapping) bool { return m.More == 0 || m.Frontend.Port() != m.Backend.Port() })
	if len(ms) == 0 {
		return m, false
	}
	return pick(c, ms), true
}

// part returns some ports of a range whose ports stay the same, most often more than one.
func (c chooser) part(ms []nat.Mapping) (m nat.Mapping, ok bool) {
	if m, ok = c.rangeOf(ms); !ok {
		return m, false
	}
	by := c.IntN(int(m.More) + 1)
	return onward(m, by, c.IntN(int(m.More)-by+1)), true
}

// partElsewhere gives some ports of a range another backend; or it gives what lies before and behind
// them to the range.
func (c chooser) partElsewhere(m nat.Mapping, tag string) nat.Mapping {
	if c.IntN(3) == 0 {
		first := max(int(m.Frontend.Port())-c.IntN(4), firstFrontendPort)
		last := min(int(m.Frontend.Port())+int(m.More)+c.IntN(4), firstFrontendPort+frontendPorts-1)
		return onward(m, first-int(m.Frontend.Port()), last-first)
	}
	m.Name = tag
	m.Backend = netip.AddrPortFrom(c.backend(m.Backend.Addr().Is6()).Addr(), m.Frontend.Port())
	return m
}

// onward returns a range that begins so many ports after another, with so many more.
func onward(m nat.Mapping, by, more int) nat.Mapping {
	m.Frontend = netip.AddrPortFrom(m.Frontend.Addr(), uint16(int(m.Frontend.Port())+by))
	m.Backend = netip.AddrPortFrom(m.Backend.Addr(), uint16(int(m.Backend.Port())+by))
	m.More = uint16(min(more, firstFrontendPort+frontendPorts-1-int(m.Frontend.Port())))
	return m
}

// mappings returns new mappings. If one has a port that is to be chosen, it is the only
// one.
func (c chooser) mappings(tag string) []nat.Mapping {
	ms := make([]nat.Mapping, 1+c.IntN(3))
	for i := range ms {
		ms[i] = c.mapping(tag)
	}
	if c.IntN(4) == 0 {
		ms = ms[:1]
		ms[0].Frontend = netip.AddrPortFrom(netip.Addr{}, 0)
	}
	return ms
}

func (c chooser) mapping(tag string) nat.Mapping {
	m := nat.Mapping{Proto: pick(c, []nat.Proto{nat.TCP, nat.UDP}), Name: tag}
	host := pick(c, []string{"", "", "", "0.0.0.0", "192.0.2.1", "127.0.0.1", "::", "2001:db8:1::1", "::1"})
	six := strings.Contains(host, ":")
	if c.IntN(6) == 0 {
		six = !six // served by a proxy only, or refused
	}
	addr := netip.Addr{}
	if host != "" {
		addr = netip.MustParseAddr(host)
	}
	m.Frontend = netip.AddrPortFrom(addr, uint16(firstFrontendPort+c.IntN(frontendPorts)))
	m.Backend = c.backend(six)
	if c.IntN(4) == 0 {
		m.More = uint16(c.IntN(3))
	}
	m.NoProxy = c.IntN(5) == 0 && !addr.IsLoopback() && (!addr.IsValid() || addr.Is6() == six)
	switch c.IntN(6) {
	case 0:
		m.Expires = time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	case 1, 2: // a range whose ports stay the same
		first := m.Frontend.Port()
		m.Backend = netip.AddrPortFrom(m.Backend.Addr(), first)
		m.More = uint16(c.IntN(firstFrontendPort + frontendPorts - int(first)))
	}
	return m
}

// backend returns an address and port at which a server answers.
func (c chooser) backend(six bool) netip.AddrPort {
	addr := pick(c, []string{"172.30.0.2", "172.30.0.3"})
	if six {
		addr = pick(c, []string{"fd00:30::2", "fd00:30::3"})
	}
	return netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(firstBackendPort+c.IntN(backendPorts-2)))
}

// The ports at which the backends answer. Ranges begin before the last two.
const firstBackendPort, backendPorts = 80, 4

func (c chooser) network(tag string) *nat.Network {
	prefix := pick(c, []string{"10.71.0.0/30", "10.72.0.0/29", "10.73.0.0/24", "10.72.0.0/28", "fd00:71::/126", "fd00:72::/64"})
	return &nat.Network{
		Name: tag, Prefix: netip.MustParsePrefix(prefix), NoGuard: c.IntN(3) == 0, NoMasquerade: c.IntN(3) == 0,
	}
}

func (c chooser) endpointSpec(n nat.Network, tag string) *nat.EndpointSpec {
	a := &nat.EndpointSpec{Name: tag, Network: n.Name}
	for i := range c.IntN(3) {
		spec := nat.PortSpec{Proto: pick(c, []nat.Proto{nat.TCP, nat.UDP}), Backend: 80}
		if i != 0 || c.IntN(2) == 0 { // at most one is chosen: two could not be told apart
			spec.Frontend = netip.AddrPortFrom(netip.Addr{}, uint16(firstFrontendPort+c.IntN(frontendPorts)))
		}
		spec.More = uint16(c.IntN(2))
		a.Ports = append(a.Ports, spec)
	}
	return a
}

// state returns the state without some of its parts, and perhaps with one more mapping.
func (c chooser) state(s nat.State, tag string) *nat.State {
	next := nat.State{Networks: slices.Clone(s.Networks), Endpoints: slices.Clone(s.Endpoints)}
	for _, m := range s.Mappings {
		for one := range nat.Expand(m) {
			if c.IntN(4) != 0 {
				next.Mappings = append(next.Mappings, one)
			}
		}
	}
	if m := c.mapping(tag); c.IntN(2) == 0 {
		next.Mappings = append(next.Mappings, m)
	}
	if c.IntN(3) == 0 && len(next.Endpoints) != 0 {
		i := c.IntN(len(next.Endpoints))
		next.Endpoints = slices.Delete(next.Endpoints, i, i+1)
	}
	return &next
}

// caller makes the calls: to an engine, or to a daemon through its API.
type caller struct {
	api.Engine
	handles *engine.Engine // that releases endpoints by their handles; nil: of a daemon
}

func engineCaller(e *engine.Engine) caller { return caller{engine.Values{Engine: e}, e} }

func daemonCaller(c *api.Client) caller { return caller{Engine: c} }

// do makes the call.
func (d operation) do(with caller) (r result) {
	ctx := context.Background()
	var err error
	switch d.Verb {
	case verbPublish, verbReplace:
		r.Mappings, err = with.Publish(ctx, nat.PublishOptions{Replace: d.Verb == verbReplace}, d.Mappings...)
	case verbUnpublish, verbKill:
		r.Mappings, err = with.Remove(ctx, nat.Removal{Mappings: d.Mappings, Kill: d.Verb == verbKill})
	case verbAttach:
		var ep nat.Endpoint
		ep, err = with.Attach(ctx, *d.Attach)
		r.Address, r.Mappings = ep.Address, ep.Mappings
	case verbDetach:
		_, err = with.Detach(ctx, d.Name)
	case verbRelease:
		err = with.release(ctx, d.Name)
	case verbCreate:
		_, err = with.CreateNetwork(ctx, *d.Network)
	case verbRemove:
		err = with.RemoveNetwork(ctx, d.Name)
	case verbApply:
		_, err = with.ApplyState(ctx, *d.State)
	default:
		err = fmt.Errorf("there is no verb %q", d.Verb)
	}
	if err != nil {
		r = result{Err: err.Error()}
	}
	return r
}

// release releases an endpoint by its handle, if it has one.
func (c caller) release(ctx context.Context, name string) error {
	if c.handles == nil {
		_, err := c.Detach(ctx, name)
		return err
	}
	ep, err := c.handles.Endpoint(ctx, name)
	if err != nil {
		return err
	}
	return ep.Release(ctx)
}
