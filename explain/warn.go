// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/host"
	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/nat"
)

// Bounds of Warn. A sample of many mappings shows what is wrong with all.
const (
	maxSampled = 32                    // mappings
	warnProbe  = 15 * time.Millisecond // how long backends are waited for
)

// Warn says what is wrong with mappings that have just been published, as far as it is certain and
// found within the time: no route to a backend, rules that drop, forwarding that is off, another
// table that takes the port, a backend where nobody answers. Of many mappings it looks at a sample.
// A backend that is only slow is not warned of. The error says that nothing could be read.
func (e *Explainer) Warn(ctx context.Context, within time.Duration, ms []nat.Mapping) ([]report.Finding, error) {
	v := &warner{begin: time.Now(), within: within, bad: map[netip.Addr]bool{}, known: map[string]int{}}
	s, err := e.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	s.options.ProbeTimeout = -1 // they are asked all at once
	v.Snapshot, v.ctx = s, ctx
	some := sample(ms)
	v.backends(ms, some)
	for _, m := range some {
		if v.late() {
			break
		}
		if v.bad[m.Backend.Addr()] {
			continue
		}
		found, err := e.options.Mappings.Find(ctx, m.Proto, m.Frontend)
		if err != nil || len(found) == 0 {
			continue // it has been unpublished
		}
		r := s.Explain(ctx, Query{Proto: m.Proto, Frontend: m.Frontend}, found...)
		if f, ok := WarningOf(r); ok && r.Mapping.Frontend == m.Frontend {
			v.add(f, m, 1)
		}
	}
	report.SortFindings(v.found)
	return v.found, nil
}

// WarningOf returns what is certainly wrong by a report, if the one who publishes should hear of it. That is
// not what concerns one client, nor what the engine says by itself.
func WarningOf(r Report) (f report.Finding, ok bool) {
	c := r.Cause
	if r.Verdict != Stopped || c == nil || !c.Certain {
		return f, false
	}
	switch c.Kind {
	case KindPolicy, KindRule:
	case KindBackend, KindBridge, KindConntrack, KindLink, KindNeighbour, KindRival, KindRoute, KindSysctl, KindTC:
		if c.Answer { // it depends on the client
			return f, false
		}
	default:
		return f, false
	}
	return report.Finding{
		Severity: report.Stops, Kind: c.Kind, Thing: c.Thing, What: c.What, Remedy: c.Remedy, Answer: c.Answer,
		Count: 1, Mappings: []nat.Mapping{r.Mapping},
	}, true
}

// warner looks for what is wrong with some mappings.
type warner struct {
	*Snapshot
	ctx    context.Context //nolint:containedctx // of one call
	begin  time.Time
	within time.Duration
	// bad are backends that have been warned of.
	bad   map[netip.Addr]bool
	found []report.Finding
	known map[string]int // where those are, by their keys
}

func (v *warner) late() bool { return v.ctx.Err() != nil || time.Since(v.begin) >= v.within }

// add adds a finding about a mapping, and so many in all.
func (v *warner) add(f report.Finding, m nat.Mapping, n int) {
	i, again := v.known[f.Key()]
	if !again {
		i = len(v.found)
		v.known[f.Key()] = i
		f.Count, f.Mappings = 0, nil
		v.found = append(v.found, f)
	}
	g := &v.found[i]
	g.Count += n
	if len(g.Mappings) < report.FirstMappings {
		g.Mappings = append(g.Mappings, m)
	}
}

// sample returns single mappings, those of each backend first.
func sample(ms []nat.Mapping) []nat.Mapping {
	type pair struct {
		proto          nat.Proto
		front, backend netip.Addr
	}
	addrs, pairs := map[netip.Addr]bool{}, map[pair]bool{}
	var first, next, rest []nat.Mapping
	for _, m := range ms {
		p := pair{m.Proto, m.Frontend.Addr(), m.Backend.Addr()}
		m.More = 0
		switch {
		case len(first) == maxSampled:
			return first
		case !addrs[p.backend]:
			first = append(first, m)
		case !pairs[p]:
			next = append(next, m)
		case len(rest) < maxSampled:
			rest = append(rest, m)
		}
		addrs[p.backend], pairs[p] = true, true
	}
	all := append(append(first, next...), rest...)
	return all[:min(len(all), maxSampled)]
}

// backends looks at the route to each backend, and asks those that have one whether they are there.
// What they answer is for the explanations.
func (v *warner) backends(ms, some []nat.Mapping) {
	ports := map[netip.Addr]int{}
	for _, m := range ms {
		ports[m.Backend.Addr()] += int(m.More) + 1
	}
	byDefault := map[netip.Addr]*host.Route{}
	prompt := map[probedKey]bool{}
	var list []host.Backend
	for _, m := range some {
		to := m.Backend.Addr()
		if v.bad[to] || v.late() {
			continue
		}
		x := v.walk(v.ctx, m)
		r, fault, err := x.lookup(host.RouteQuery{Dst: to, Proto: x.proto, DstPort: m.Backend.Port()})
		if fault != nil && fault.Kind != host.FaultForwarding && fault.Kind != host.FaultRPFilter {
			c := x.faultCause(fault, to)
			v.bad[to] = true
			v.add(report.Finding{Severity: report.Stops, Kind: c.Kind, Thing: c.Thing, What: c.What, Remedy: c.Remedy}, m, ports[to])
		}
		if err != nil || r == nil || r.Type != unix.RTN_UNICAST {
			continue
		}
		if r.Dst.Bits() == 0 && r.Table == unix.RT_TABLE_MAIN && to.IsPrivate() {
			byDefault[to] = r
		}
		key := probedKey{x.proto, m.Backend}
		if _, known := v.probed[key]; known {
			continue
		}
		v.probed[key] = host.ProbeResult{Text: "the host's own packets to it may be stopped"}
		if sees, sure := x.sees(m.Backend); sees && sure {
			prompt[key] = v.prompt(r, to)
			list = append(list, host.Backend{Proto: x.proto, Addr: m.Backend})
		}
	}
	v.ask(list, prompt, byDefault)
	for _, m := range some {
		to := m.Backend.Addr()
		if r := byDefault[to]; r != nil && !v.bad[to] {
			v.bad[to] = true
			v.add(report.Finding{
				Severity: report.MayStop, Kind: KindRoute, Thing: routeText(r), What: fmt.Sprintf("only the default route leads to the private address %s", to),
				Remedy: "create the network of the backend, or see whether its address is right",
			}, m, ports[to])
		}
	}
}

// ask asks backends, and notes what they answer. An answer that may still come is none. Of those that
// answer it is known that the default route is right.
func (v *warner) ask(list []host.Backend, prompt map[probedKey]bool, byDefault map[netip.Addr]*host.Route) {
	wait := min(warnProbe, v.within-time.Since(v.begin))
	if len(list) == 0 || wait <= 0 {
		return
	}
	for i, r := range v.facts.ProbeAll(v.ctx, list, wait) {
		key := probedKey{list[i].Proto, list[i].Addr}
		switch r.Answer {
		case host.Answers, host.Refused:
			delete(byDefault, key.backend.Addr())
		case host.NoNeighbour:
			if !prompt[key] {
				continue
			}
		case host.Unreachable:
		case host.Silent, host.Unasked:
			continue
		}
		v.probed[key] = r
	}
	v.resolved()
}

// prompt reports whether a neighbour that does not answer at once does not answer at all: it has not
// answered before, or it would have to be on this machine.
func (v *warner) prompt(r *host.Route, to netip.Addr) bool {
	hop := nextHop(r, to)
	if n, err := v.facts.Neighbour(hop, r.Oif); err == nil && n != nil && n.State&unix.NUD_FAILED != 0 {
		return true
	}
	d := v.device(r.Oif)
	if d.Kind != "bridge" {
		return d.Kind == "veth"
	}
	ports, err := v.facts.Ports(d.Index)
	for _, p := range ports {
		if p.Kind != "veth" {
			return false
		}
	}
	return err == nil
}
