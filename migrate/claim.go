// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/nftnat/nftnat/migrate/internal/chains"
	"github.com/nftnat/nftnat/migrate/internal/packets"
	"github.com/nftnat/nftnat/nat"
)

// target is packets that differ in their sources at most.
type target struct {
	class       packets.Class
	first, last uint16
	dst         packets.Span
}

// meets reports whether a claim has packets that differ from those of a target in their sources only.
func (t target) meets(c chains.Claim) bool {
	_, ok := c.Box().Intersect(packets.Box{Classes: 1 << t.class, First: t.first, Last: t.last, Dst: t.dst})
	return ok
}

// claim adds what one rule translates.
func (im *Import) claim(h *host, now time.Time, r *chains.Rule, claims []chains.Claim) {
	if isWide(claims) {
		im.leaveOut(r.Origin(), "it is for all ports")
		return
	}
	var order []target
	notes := append(h.unmark(claims), im.Source.others(r)...)
	sources := map[target][]packets.Span{}
	var unfit []chains.Claim
	for _, c := range united(claims) {
		if reason := h.fault(c); reason != "" {
			im.leaveOut(r.Origin(), reason)
			unfit = append(unfit, c)
			continue
		}
		t := target{c.Class, c.First, c.Last, c.Dst}
		if t.dst.Any() {
			t.dst = packets.Span{}
		}
		if sources[t] == nil {
			order = append(order, t)
		}
		sources[t] = append(sources[t], c.Src)
	}
	// Published for some clients only, a port would be closed for the others, which are left out.
	order = slices.DeleteFunc(order, func(t target) bool {
		return !packets.Everyone(sources[t], t.class.Is6()) && slices.ContainsFunc(unfit, t.meets)
	})
	var absent []string // why some of its packets have no frontend, which is of no account if others have
	made := false
	slices.SortStableFunc(order, func(a, b target) int { return cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(a.first, b.first)) })
	for _, t := range joined(order, sources) {
		from, reason := sourcesOf(sources[t], t.class.Is6())
		if reason != "" {
			im.leaveOut(r.Origin(), reason)
			continue
		}
		hosts, reason := h.frontends(t)
		if reason != "" && len(hosts) == 0 && h.live {
			absent = append(absent, reason)
			continue
		}
		if reason != "" {
			im.leaveOut(r.Origin(), reason)
			continue
		}
		runs, reason := runsOf(r.To, t.first, t.last)
		if reason != "" {
			im.leaveOut(r.Origin(), reason)
			continue
		}
		made = true
		for _, at := range hosts {
			for _, run := range runs {
				m := nat.Mapping{
					Proto: protoOf(t.class), Frontend: netip.AddrPortFrom(at, run.first), Backend: netip.AddrPortFrom(r.To.Addr, run.to), More: run.more, From: from,
				}
				if r.Left != 0 {
					m.Expires = now.Add(time.Duration(r.Left) * time.Millisecond).UTC().Truncate(time.Millisecond)
				}
				im.add(Entry{Mapping: m, Origins: []string{r.Origin()}, Notes: notes, rank: claims[0].Rank, base: claims[0].Base})
			}
		}
	}
	for _, reason := range absent {
		if !made {
			im.leaveOut(r.Origin(), reason)
		}
	}
}

// unmark removes the marks of packets that nftnat does without. Where the backend's network is not known, notes say
// what the sources are.
func (h *host) unmark(claims []chains.Claim) (notes []string) {
	for i := range claims {
		c := &claims[i]
		if c.Mark == "" || h.isMarked(*c) {
			continue
		}
		if !h.knows(c.Rule.To.Addr) && !c.Src.First.IsLoopback() {
			notes = append(notes, fmt.Sprintf("marked if it is from %s, which is not kept, by %s", c.Src, c.Mark))
		}
		c.Mark = ""
	}
	return unique(notes)
}

// joined joins targets of consecutive ports, which rules before have cut, if they have the same
// sources.
func joined(order []target, sources map[target][]packets.Span) (list []target) {
	for _, t := range order {
		if n := len(list); n != 0 {
			before := list[n-1]
			whole := before
			whole.last = t.last
			if before.class == t.class && before.dst == t.dst && int(before.last)+1 == int(t.first) && slices.Equal(sources[before], sources[t]) {
				sources[whole] = sources[t]
				list[n-1] = whole
				continue
			}
		}
		list = append(list, t)
	}
	return list
}

// isWide reports whether a rule has nearly all ports of a class, perhaps but for those of rules before it.
func isWide(claims []chains.Claim) bool {
	type class struct {
		packets.Class
		dst string
	}
	ports := map[class]int{}
	for _, c := range claims {
		k := class{c.Class, c.Dst.String()}
		if !packets.Others.Has(c.Class) && c.Src.Any() || c.Rule.Action != chains.Redirect {
			ports[k] += int(c.Last) - int(c.First) + 1
		}
		if ports[k] >= allPorts && !packets.Others.Has(c.Class) {
			return true
		}
	}
	return false
}

// united returns claims of which those that differ in interfaces alone are one.
func united(claims []chains.Claim) (list []chains.Claim) {
	for _, c := range claims {
		i := slices.IndexFunc(list, func(o chains.Claim) bool {
			return o.Class == c.Class && o.First == c.First && o.Last == c.Last && o.Dst == c.Dst && o.Src == c.Src && o.Doubt == c.Doubt && o.Mark == c.Mark && slices.Equal(o.If, c.If)
		})
		if i < 0 {
			list = append(list, c)
			continue
		}
		list[i].Links = list[i].Links.Union(c.Links)
	}
	return list
}

func protoOf(c packets.Class) nat.Proto {
	if packets.UDP.Has(c) {
		return nat.UDP
	}
	return nat.TCP
}

// otherProtocol is why SCTP, for example, is left out.
const otherProtocol = "it is for another protocol than TCP and UDP"

// fault says why no mapping can do what a claim does; empty: one can, as far as this tells.
func (h *host) fault(c chains.Claim) string {
	if c.Rule.Action == chains.Redirect {
		return "it redirects to this host itself"
	}
	if c.Rule.Action != chains.Translate {
		return "it does not translate the destination"
	}
	switch {
	case c.Rule.To.Fault != "":
		return c.Rule.To.Fault
	case packets.Others.Has(c.Class):
		return otherProtocol
	case len(c.If) != 0:
		return "it is for some packets only: " + strings.Join(unique(c.If), ", ")
	case c.Doubt != "":
		return "a rule before it may take its packets: " + c.Doubt
	case c.Mark != "":
		return markedBy + c.Mark
	case c.Links.Only:
		return "it is for packets only that come in by " + strings.Join(c.Links.Names, ", ")
	}
	for _, name := range c.Links.Names {
		if name != "lo" && !h.behind(c.Rule.To.Addr, name) {
			return "it is not for packets that come in by " + name + ", and the backend is not behind that"
		}
	}
	return ""
}

func unique(texts []string) (list []string) {
	for _, t := range texts {
		if !slices.Contains(list, t) {
			list = append(list, t)
		}
	}
	return list
}

// sourcesOf returns the sources from which packets come.
func sourcesOf(spans []packets.Span, six bool) (nat.Sources, string) {
	var prefixes []netip.Prefix
	for _, s := range packets.Join(spans, six) {
		if s.Any() {
			return nat.Sources{}, ""
		}
		prefixes = s.Prefixes(prefixes)
	}
	from, err := nat.SourcesOf(prefixes...)
	if err != nil {
		return nat.Sources{}, "its sources are too many: " + reasonOf(err)
	}
	return from, ""
}

// frontends returns the addresses of frontends for packets.
func (h *host) frontends(t target) (addrs []netip.Addr, reason string) {
	if t.dst.Any() {
		if t.class.Is6() {
			return []netip.Addr{netip.IPv6Unspecified()}, ""
		}
		return []netip.Addr{netip.IPv4Unspecified()}, ""
	}
	if a, one := t.dst.One(); one {
		return []netip.Addr{a}, ""
	}
	if !h.live {
		return nil, "it is for the addresses " + t.dst.String() + ", and a frontend is for one or all"
	}
	for _, a := range h.addrs {
		if t.dst.Has(a) && !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			addrs = append(addrs, a)
		}
	}
	switch {
	case len(addrs) == 0:
		return nil, "it is for the addresses " + t.dst.String() + ", of which this host has none"
	case len(addrs) > maxAddrs:
		return addrs, "it is for the addresses " + t.dst.String() + ", of which this host has many"
	}
	return addrs, ""
}

// run is consecutive ports that lead to consecutive ones.
type run struct{ first, more, to uint16 }

// runsOf returns where ports lead.
func runsOf(to chains.Target, first, last uint16) (runs []run, reason string) {
	for port := max(int(first), 1); port <= int(last); port++ {
		p, fault := to.Port(uint16(port))
		if fault != "" {
			return nil, fault
		}
		if n := len(runs); n != 0 && runs[n-1].to+runs[n-1].more+1 == p {
			runs[n-1].more++
			continue
		}
		if len(runs) == maxRuns {
			return nil, fmt.Sprintf("it leads more than %d ports to one", maxRuns)
		}
		runs = append(runs, run{uint16(port), 0, p})
	}
	return runs, ""
}
