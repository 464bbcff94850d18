// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/nftnat/nftnat/explain/internal/host"
	"github.com/nftnat/nftnat/nat"
)

// Mappings are the published ports.
type Mappings interface {
	// Find returns the mappings that a packet to a frontend may go by, those of one address
	// before those of any. An invalid address: any.
	Find(ctx context.Context, proto nat.Proto, frontend netip.AddrPort) ([]nat.Mapping, error)
	// Near returns mappings that were perhaps meant where there is none.
	Near(ctx context.Context, proto nat.Proto, frontend netip.AddrPort) ([]nat.Near, error)
}

// Options are what New needs.
type Options struct {
	// NetNS is the path of the network namespace. Empty: that of the process.
	NetNS string
	// Table is the name of the table of the published ports. Empty: nftnat.
	Table string
	// Mappings are the published ports; required.
	Mappings Mappings
	// ProbeTimeout is how long a backend is waited for. Zero: a second. Negative: none is asked.
	ProbeTimeout time.Duration
	// PID is the process that has the proxies. Zero: any with the name nftnat.
	PID int
	// LegacyLists are those of OpenLegacyLists, for a process that may not open them anymore. Empty: it may.
	LegacyLists []*os.File
}

// Explainer explains what becomes of packets. It is for one goroutine at a time.
type Explainer struct {
	options Options
	// read reads the host anew, and the rules if they have changed.
	read func(ctx context.Context) (facts, evaluator, error)
	end  func() error
	// drops is how many packets connection tracking had dropped at the last Doctor; nil: there was none.
	drops *uint64
}

// New returns an Explainer of a network namespace. Close it.
func New(o Options) (*Explainer, error) {
	if o.Table == "" {
		o.Table = "nftnat"
	}
	if o.ProbeTimeout == 0 {
		o.ProbeTimeout = time.Second
	}
	e := &Explainer{options: o}
	if err := e.open(); err != nil {
		return nil, err
	}
	return e, nil
}

// Close closes what the Explainer has open.
func (e *Explainer) Close() error { return e.end() }

// Explain says what becomes of a packet. The error says that nothing could be read; if something
// could not be read, the report says it.
func (e *Explainer) Explain(ctx context.Context, q Query) (Report, error) {
	found, err := e.options.Mappings.Find(ctx, q.Proto, q.Frontend)
	if err != nil {
		return Report{}, err // it names the frontend
	}
	if len(found) == 0 {
		near, err := e.options.Mappings.Near(ctx, q.Proto, q.Frontend)
		if err != nil {
			return Report{}, err
		}
		return Report{Query: q, Verdict: NotPublished, Near: near}, nil
	}
	for attempt := 1; ; attempt++ {
		s, err := e.Snapshot(ctx)
		if err != nil {
			return Report{}, err
		}
		r := s.Explain(ctx, q, found...)
		if ctx.Err() != nil {
			return r, ctx.Err()
		}
		changed, err := s.eval.changed()
		if changed && err == nil && attempt < readAttempts {
			continue
		}
		if (changed || err != nil) && r.Verdict == Passes {
			r.Verdict = Uncertain
			r.Cause = &Cause{Kind: KindUnread, Thing: "the rules", What: "have changed while they were read"}
		}
		return r, nil
	}
}

// readAttempts bounds how often a packet is followed anew because rules have changed meanwhile.
const readAttempts = 4

// Snapshot is a host at one moment, for many explanations: what one of them has read the others know.
// It is valid until the Explainer is asked again or closed.
type Snapshot struct {
	options Options
	facts   facts
	eval    evaluator
	probed  map[probedKey]host.ProbeResult
	devices map[int]*device
	routes  map[host.RouteQuery]routed
	ct      *tracking
	// What was found out once.
	neighbours map[linkAddr]found
	stacks     map[linkAddr][]*device
	asked      map[question]*Cause
	locals     map[netip.Addr]bool
	homes      map[homeward]homeRoute
	// portRules says of each family whether policy rules ask for ports.
	portRules map[bool]bool
	// unreadable is what could not be read.
	unreadable []string
}

type probedKey struct {
	proto   uint8
	backend netip.AddrPort
}

// Snapshot reads a host.
func (e *Explainer) Snapshot(ctx context.Context) (*Snapshot, error) {
	f, ev, err := e.read(ctx)
	if err != nil {
		return nil, err
	}
	return newSnapshot(e.options, f, ev), nil
}

func newSnapshot(o Options, f facts, ev evaluator) *Snapshot {
	return &Snapshot{
		options: o, facts: f, eval: ev, probed: map[probedKey]host.ProbeResult{}, devices: map[int]*device{},
		routes: map[host.RouteQuery]routed{}, portRules: map[bool]bool{},
		neighbours: map[linkAddr]found{}, stacks: map[linkAddr][]*device{}, asked: map[question]*Cause{}, locals: map[netip.Addr]bool{}, homes: map[homeward]homeRoute{},
	}
}

// Explain says what becomes of a packet, which the mappings may serve: those of one address
// before those of any. There must be one.
func (s *Snapshot) Explain(ctx context.Context, q Query, found ...nat.Mapping) Report {
	x := s.walk(ctx, found...)
	x.proto = protoOf(q.Proto)
	return *x.explain(q)
}

// walk is a walk of no packet yet, which the mappings may serve.
func (s *Snapshot) walk(ctx context.Context, found ...nat.Mapping) *walk {
	return &walk{
		Snapshot: s, ctx: ctx, table: s.options.Table, found: found, mapping: found[0], proto: protoOf(found[0].Proto),
		timeout: max(0, s.options.ProbeTimeout), pid: s.options.PID,
	}
}

// explain walks the ways by which the client may ask. The verdict is that of the likeliest.
func (x *walk) explain(q Query) *Report {
	x.prefer(q.From)
	r := &Report{Query: q, Mapping: x.mapping}
	if !q.Frontend.Addr().IsValid() && x.mapping.Frontend.Addr().IsValid() && !x.mapping.Frontend.Addr().IsUnspecified() {
		q.Frontend = netip.AddrPortFrom(x.mapping.Frontend.Addr(), q.Frontend.Port())
	}
	cs, typical, stop := x.clients(q)
	r.Typical, x.guessed = typical, typical != ""
	if stop != nil {
		r.Verdict, r.Cause, r.Client, r.Frontend = Stopped, stop, q.From, q.Frontend
		r.Unread = x.unreadNow()
		return r
	}
	for i, c := range cs {
		if i == 0 {
			r.Client, r.Frontend = c.addr, c.to
			conclude(run(x.ways(c), x.wide), r)
			r.Mapping = x.mapping
			continue
		}
		o := &Report{}
		conclude(run(x.ways(c), x.wide), o)
		if o.Verdict == r.Verdict && (o.Cause == nil) == (r.Cause == nil) && (o.Cause == nil || o.Cause.Thing == r.Cause.Thing) {
			continue
		}
		if r.Verdict == Passes && o.Cause != nil {
			switch {
			case c.doubt && o.Cause.Kind != KindSysctl:
				continue
			case c.doubt, !cs[0].sure && o.Verdict == Stopped:
				r.Verdict, r.Cause, o.Cause.Certain = Uncertain, o.Cause, false
				o.Cause.What += fmt.Sprintf(", if the client asks %s by %s", c.to.Addr(), x.name(c.in))
				continue
			case cs[0].sure:
				continue
			}
		}
		if c.doubt {
			continue
		}
		by := fmt.Sprintf("if it asks by %s (as %s says), and not by %s (as %s says)", x.name(c.in), c.why, x.name(cs[0].in), cs[0].why)
		if o.Cause == nil {
			r.Notes = append(r.Notes, by+": passes")
		} else {
			r.Notes = append(r.Notes, fmt.Sprintf("%s: %s by %s", by, o.Verdict, o.Cause.Thing))
		}
	}
	r.Unread = x.unreadNow()
	return r
}

// prefer takes the first mapping that a client can ask, if there is one. An invalid client can ask any.
func (x *walk) prefer(client netip.Addr) {
	for _, m := range x.found {
		if a := m.Frontend.Addr(); !client.IsValid() || !a.IsValid() || a.Is4() == client.Is4() {
			x.mapping = m
			return
		}
	}
}

func (x *walk) unreadNow() []string {
	all := slices.Clone(x.facts.Unread())
	for _, u := range x.unreadable {
		if !slices.Contains(all, u) {
			all = append(all, u)
		}
	}
	return all
}
