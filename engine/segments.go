// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/engine/internal/segment"
	"github.com/nftnat/nftnat/nft"
)

// linksTo returns the interfaces that lead to backends whose routes were looked up.
func linksTo(backends portset.Counts, routes hostnet.RouteMap) (links segment.Links) {
	var last *hostnet.Route
	var names *[]string // those of last, which many backends share
	for a := range backends.Keys {
		r := routes.Map.Of(a)
		if r == nil {
			continue
		}
		if last == nil || r.Link != last.Link || !slices.Equal(r.More, last.More) {
			some := linksOf(*r)
			last, names = r, &some
		}
		links.Set(a, names)
	}
	return links
}

// eachLink returns the interfaces that lead to the backends of ports, but of each one backend.
func eachLink(ports iter.Seq[portset.Port], routes hostnet.RouteMap) (links segment.Links) {
	seen := map[segment.Link]bool{}
	for p := range ports {
		if p.ProxiedOnly() {
			continue // as in Counts
		}
		a := p.Backend.Addr()
		r := routes.Of(a)
		if l := (segment.Link{Name: r.Link, Is4: a.Is4()}); !seen[l] || len(r.More) != 0 {
			names := linksOf(r)
			seen[l] = true
			links.Set(a, &names)
		}
	}
	return links
}

func linksOf(r hostnet.Route) []string {
	if r.Link == "" {
		return nil
	}
	return append([]string{r.Link}, r.More...)
}

// segmentFacts looks up what is on link by the interfaces that lead to the backends.
func (e *core) segmentFacts(backends portset.Counts, routes hostnet.RouteMap) (f segment.Facts, err error) {
	f.Links = linksTo(backends, routes)
	f.OnLink, err = e.onLink(f.Links, nil)
	return f, err
}

// onLink looks up what is on link by interfaces, except those that are known. One whose name
// nft(8) cannot write has nothing on link.
func (e *core) onLink(links segment.Links, known func(segment.Link) bool) (map[segment.Link][]netip.Prefix, error) {
	names := map[bool][]string{} // by whether they are for IPv4
	seen := map[segment.Link]bool{}
	for a, some := range links.All {
		for _, name := range *some {
			l := segment.Link{Name: name, Is4: a.Is4()}
			if seen[l] || known != nil && known(l) {
				continue
			}
			seen[l] = true
			if schema.CanName(name) {
				names[l.Is4] = append(names[l.Is4], name)
			}
		}
	}
	if len(seen) == 0 {
		return nil, nil
	}
	all := make(map[segment.Link][]netip.Prefix, len(seen))
	for l := range seen {
		all[l] = nil
	}
	for is4, some := range names {
		slices.Sort(some)
		found, err := e.host.OnLink(some, is4)
		if err != nil {
			return nil, err
		}
		for name, ps := range found {
			all[segment.Link{Name: name, Is4: is4}] = ps
		}
	}
	return all, nil
}

// lookUpLinks adds to a change what is on link by interfaces that lead to its backends and
// to none before.
func (e *core) lookUpLinks(c *change) error {
	if !e.segments.Current() && e.table.Present() {
		routes, err := e.routesToBackends()
		if err == nil {
			err = e.followSegments(routes)
		}
		if err != nil {
			return err
		}
	}
	known := func(l segment.Link) bool { return e.segments.Knows(l) }
	for a, r := range c.routes.All {
		isNew := func(name string) bool { return !known(segment.Link{Name: name, Is4: a.Is4()}) }
		if slices.ContainsFunc(linksOf(*r), isNew) {
			var err error
			c.onLink, err = e.onLink(eachLink(c.After, c.routes), known)
			return err
		}
	}
	return nil
}

// followSegments makes the segments of the table those of the published backends, to which
// these are the routes.
func (e *core) followSegments(routes hostnet.RouteMap) error {
	if !e.table.Present() {
		return nil
	}
	facts, err := e.segmentFacts(e.backends, routes)
	if err != nil {
		return err
	}
	p := e.segments.Replace(facts)
	if len(p.Removed)+len(p.Added) != 0 {
		var ch nft.Change
		for _, s := range p.Removed {
			ch.Delete = append(ch.Delete, schema.SegmentElement(s))
		}
		for _, s := range p.Added {
			ch.Add = append(ch.Add, schema.SegmentElement(s))
		}
		ch.Delete, ch.Add = inSets(ch.Delete), inSets(ch.Add)
		if err := e.table.Update(ch); err != nil {
			e.table.MarkStale()
			return fmt.Errorf("follow segments: %w", err)
		}
		e.log.Info("segments follow the host", "table", e.opts.Table, "removed", len(p.Removed), "added", len(p.Added))
	}
	e.segments.Apply(p)
	return nil
}

// renewSegments makes the segments of a table that is about to be corrected those of its
// backends. If they cannot be looked up, they are followed later.
func (e *core) renewSegments(c *schema.Contents) {
	if e.opts.ReadOnly {
		return
	}
	backends := portset.Count(c.Ports.All)
	routes, err := e.host.LookupAll(backends.Addrs())
	if err != nil {
		return
	}
	if facts, err := e.segmentFacts(backends, routes); err == nil {
		c.SetSegments(facts.Segments())
	}
}

// segmentWarnings names the interfaces whose names nft(8) cannot write.
func (e *core) segmentWarnings() (lines []string) {
	for _, l := range e.segments.Links() {
		if line := fmt.Sprintf("machines on the link %q do not reach the ports that lead to it by this host: nft(8) cannot write that name", l.Name); !schema.CanName(l.Name) && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}
