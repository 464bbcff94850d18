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

// deed is one call, as a value that processes can tell each other.
type deed struct {
	Verb string
	// Tag is the name of all that the deed makes, and of nothing else.
	Tag      string
	Mappings []nat.Mapping
	Attach   *nat.EndpointSpec
	Network  *nat.Network
	Name     string // what is detached or removed
	State    *nat.State
}

// yield is what came of a deed, as its caller was told.
type yield struct {
	Mappings []nat.Mapping
	Address  netip.Addr
	Err      string
}

// The verbs of deeds.
const (
	verbPublish   = "publish"
	verbRetarget  = "retarget"
	verbUnpublish = "unpublish"
	verbKill      = "kill"
	verbAttach    = "attach"
	verbDetach    = "detach"
	verbRelease   = "release"
	verbCreate    = "create"
	verbRemove    = "remove"
	verbApply     = "apply"
)

// chance is a verb, and how often it comes beside the others.
type chance struct {
	verb   string
	weight int
}

func chances() []chance {
	return []chance{
		{verbPublish, 6}, {verbRetarget, 4}, {verbUnpublish, 4}, {verbKill, 2}, {verbAttach, 5},
		{verbDetach, 2}, {verbRelease, 2}, {verbCreate, 2}, {verbRemove, 1}, {verbApply, 3},
	}
}

// The space in which random deeds meet: few frontends, so that many are in the way of
// others, and networks so small that they are full at times.
const (
	deedFirstPort, deedPorts = 8000, 24
	deedNetworks             = 4
	crowdedDeeds             = 25 // how many mappings are enough
)

// choosing is a source of deeds.
type choosing struct{ *rand.Rand }

func pick[T any](c choosing, from []T) T { return from[c.IntN(len(from))] }

// deed chooses what to do with a state. Not all of it can be done.
func (c choosing) deed(s nat.State, tag string) deed {
	total := 0
	for _, ch := range chances() {
		total += ch.weight
	}
	at := c.IntN(total)
	verb := ""
	for _, ch := range chances() {
		if at -= ch.weight; at < 0 {
			verb = ch.verb
			break
		}
	}
	if len(flat(s)) > crowdedDeeds && c.IntN(2) == 0 {
		verb = verbKill
	}
	d := deed{Verb: verb, Tag: tag}
	switch verb {
	case verbUnpublish, verbKill, verbRetarget:
		d.Mappings = c.some(s.Mappings)
		if verb == verbRetarget {
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
			d.Attach = c.attachment(pick(c, s.Networks), tag)
		}
	case verbApply:
		d.State = c.state(s, tag)
	}
	switch {
	case verb == verbCreate && len(s.Networks) < deedNetworks,
		len(s.Networks) == 0 && (verb == verbAttach || verb == verbRemove):
		d.Verb, d.Network = verbCreate, c.network(tag)
	case len(d.Mappings) == 0 && d.Attach == nil && d.Name == "" && d.State == nil:
		d.Verb, d.Mappings = verbPublish, c.mappings(tag)
	}
	return d
}

// some are one to three of the ports of mappings.
func (c choosing) some(ms []nat.Mapping) (some []nat.Mapping) {
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

// mappings are new ones. One of a port that is to be chosen stands alone.
func (c choosing) mappings(tag string) []nat.Mapping {
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

func (c choosing) mapping(tag string) nat.Mapping {
	m := nat.Mapping{Proto: pick(c, []nat.Proto{nat.TCP, nat.UDP}), Name: tag}
	host := pick(c, []string{"", "", "", "0.0.0.0", "192.0.2.1", "127.0.0.1", "::", "2001:db8:1::1", "::1"})
	six := strings.Contains(host, ":")
	if c.IntN(6) == 0 {
		six = !six // a proxy's alone, or nobody's
	}
	addr := netip.Addr{}
	if host != "" {
		addr = netip.MustParseAddr(host)
	}
	m.Frontend = netip.AddrPortFrom(addr, uint16(deedFirstPort+c.IntN(deedPorts)))
	m.Backend = c.backend(six)
	if c.IntN(4) == 0 {
		m.More = uint16(c.IntN(3))
	}
	m.NoProxy = c.IntN(5) == 0 && !addr.IsLoopback() && (!addr.IsValid() || addr.Is6() == six)
	if c.IntN(6) == 0 {
		m.Expires = time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	}
	return m
}

// backend is a port at which somebody answers.
func (c choosing) backend(six bool) netip.AddrPort {
	addr := pick(c, []string{"172.30.0.2", "172.30.0.3"})
	if six {
		addr = pick(c, []string{"fd00:30::2", "fd00:30::3"})
	}
	return netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(firstDeedBackend+c.IntN(deedBackends-2)))
}

// The ports at which the backends of deeds answer. Ranges begin before the last two.
const firstDeedBackend, deedBackends = 80, 4

func (c choosing) network(tag string) *nat.Network {
	prefix := pick(c, []string{"10.71.0.0/30", "10.72.0.0/29", "10.73.0.0/24", "10.72.0.0/28", "fd00:71::/126", "fd00:72::/64"})
	return &nat.Network{
		Name: tag, Prefix: netip.MustParsePrefix(prefix), NoGuard: c.IntN(3) == 0, NoMasquerade: c.IntN(3) == 0,
	}
}

func (c choosing) attachment(n nat.Network, tag string) *nat.EndpointSpec {
	a := &nat.EndpointSpec{Name: tag, Network: n.Name}
	for i := range c.IntN(3) {
		spec := nat.PortSpec{Proto: pick(c, []nat.Proto{nat.TCP, nat.UDP}), Backend: 80}
		if i != 0 || c.IntN(2) == 0 { // of chosen ones there is one, or they could not be told apart
			spec.Frontend = netip.AddrPortFrom(netip.Addr{}, uint16(deedFirstPort+c.IntN(deedPorts)))
		}
		spec.More = uint16(c.IntN(2))
		a.Ports = append(a.Ports, spec)
	}
	return a
}

// state is a state with some things gone, and one mapping more.
func (c choosing) state(s nat.State, tag string) *nat.State {
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

// doer is what does deeds: an engine, or a daemon through its API.
type doer interface {
	publish(ms []nat.Mapping, retarget bool) ([]nat.Mapping, error)
	unpublish(ms []nat.Mapping, kill bool) ([]nat.Mapping, error)
	attach(a nat.EndpointSpec) (netip.Addr, []nat.Mapping, error)
	detach(name string, byHandle bool) error
	create(n nat.Network) error
	remove(name string) error
	apply(s nat.State) error
}

// do does the deed.
func (d deed) do(with doer) (y yield) {
	var err error
	switch d.Verb {
	case verbPublish, verbRetarget:
		y.Mappings, err = with.publish(d.Mappings, d.Verb == verbRetarget)
	case verbUnpublish, verbKill:
		y.Mappings, err = with.unpublish(d.Mappings, d.Verb == verbKill)
	case verbAttach:
		y.Address, y.Mappings, err = with.attach(*d.Attach)
	case verbDetach, verbRelease:
		err = with.detach(d.Name, d.Verb == verbRelease)
	case verbCreate:
		err = with.create(*d.Network)
	case verbRemove:
		err = with.remove(d.Name)
	case verbApply:
		err = with.apply(*d.State)
	default:
		err = fmt.Errorf("there is no verb %q", d.Verb)
	}
	if err != nil {
		y = yield{Err: err.Error()}
	}
	return y
}

// engineDoer does deeds with an engine.
type engineDoer struct{ *engine.Engine }

func (e engineDoer) publish(ms []nat.Mapping, retarget bool) ([]nat.Mapping, error) {
	if retarget {
		return e.Retarget(ms...)
	}
	return e.Publish(ms...)
}

func (e engineDoer) unpublish(ms []nat.Mapping, kill bool) ([]nat.Mapping, error) {
	if kill {
		return e.Kill(ms...)
	}
	return e.Unpublish(ms...)
}

func (e engineDoer) attach(a nat.EndpointSpec) (netip.Addr, []nat.Mapping, error) {
	ep, err := e.Attach(a)
	if err != nil {
		return netip.Addr{}, nil, err
	}
	return ep.Address().Addr(), slices.Collect(ep.Mappings()), nil
}

func (e engineDoer) detach(name string, byHandle bool) error {
	if !byHandle {
		_, err := e.Detach(name)
		return err
	}
	ep, err := e.Endpoint(name)
	if err != nil {
		return err
	}
	return ep.Release()
}

func (e engineDoer) create(n nat.Network) error {
	_, err := e.CreateNetwork(n)
	return err
}

func (e engineDoer) remove(name string) error { return e.RemoveNetwork(name) }

func (e engineDoer) apply(s nat.State) error {
	_, err := e.ApplyState(s)
	return err
}

// daemonDoer does deeds through the API, which takes back one mapping at a time.
type daemonDoer struct{ *api.Client }

func (c daemonDoer) publish(ms []nat.Mapping, retarget bool) ([]nat.Mapping, error) {
	if retarget {
		return c.Retarget(context.Background(), ms...)
	}
	return c.Publish(context.Background(), ms...)
}

func (c daemonDoer) unpublish(ms []nat.Mapping, kill bool) ([]nat.Mapping, error) {
	if kill {
		return c.Kill(context.Background(), ms[0])
	}
	return c.Unpublish(context.Background(), ms[0])
}

func (c daemonDoer) attach(a nat.EndpointSpec) (netip.Addr, []nat.Mapping, error) {
	ep, err := c.Attach(context.Background(), a)
	return ep.Address, ep.Mappings, err
}

func (c daemonDoer) detach(name string, _ bool) error {
	_, err := c.Detach(context.Background(), name)
	return err
}

func (c daemonDoer) create(n nat.Network) error {
	_, err := c.CreateNetwork(context.Background(), n)
	return err
}

func (c daemonDoer) remove(name string) error { return c.RemoveNetwork(context.Background(), name) }

func (c daemonDoer) apply(s nat.State) error {
	_, err := c.ApplyState(context.Background(), s)
	return err
}
