// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nftnat/nftnat/explain/internal/host"
	"github.com/nftnat/nftnat/nat"
)

// host looks at the host's own state, as far as no explanation says it. drops is how many packets
// connection tracking had dropped before; nil: it is not known.
func (d *doctor) host(drops **uint64) {
	ct, err := d.conntrack()
	if err != nil {
		d.failed("connection tracking", err)
	}
	if ct != nil {
		d.tracked(ct, *drops)
		*drops = &ct.Drop
	}
	d.held()
}

// tracked says whether connection tracking is nearly full, or drops packets: only what was dropped
// between two examinations counts.
func (d *doctor) tracked(ct *host.Conntrack, before *uint64) {
	remedy := fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d", 2*ct.Max)
	thing := fmt.Sprintf("connection tracking: %d of %d entries", ct.Count, ct.Max)
	said := slices.ContainsFunc(d.order, func(key string) bool { return d.found[key].Kind == KindConntrack })
	switch {
	case said:
	case before != nil && ct.Drop > *before:
		d.say(Finding{Severity: SeverityMayStop, Kind: KindConntrack, Thing: thing, What: fmt.Sprintf("has dropped %d packets of late", ct.Drop-*before), Remedy: remedy})
	case ct.Max != 0 && ct.Count*100 >= ct.Max*nearlyFull:
		d.say(Finding{Severity: SeverityNotable, Kind: KindConntrack, Thing: thing, What: "new connections are dropped when it is full", Remedy: remedy})
	}
}

// held says which published ports other programs listen on: clients on this host get those.
func (d *doctor) held() {
	by := map[*host.Socket]*finding{}
	for i, m := range d.all {
		if m.Hold == nat.HoldShared {
			continue // it is said to
		}
		for _, s := range d.sockets[protoPort{m.Proto, m.Frontend.Port()}] {
			a, own := m.Frontend.Addr(), s.Addr.Addr()
			if a.IsValid() && !a.IsUnspecified() && !own.IsUnspecified() && a != own || a.IsValid() && a.Is4() != own.Is4() && !own.IsUnspecified() {
				continue
			}
			if d.ours(s) {
				continue
			}
			if by[s] == nil {
				f := &finding{typical: true, Finding: Finding{
					Severity: SeverityNotable, Kind: KindSocket, Thing: "socket " + s.String(), What: "holds a published port: clients on this host come to it",
					Remedy: "end its program, or publish another port",
				}}
				by[s] = f
				if slices.ContainsFunc(d.order, func(key string) bool { return d.found[key].Kind == KindSocket && d.found[key].Thing == f.Thing }) {
					continue
				}
				key := f.Key()
				d.found[key] = f
				d.order = append(d.order, key)
			}
			d.about(by[s], &group{count: 1, ordinals: []int{i}})
		}
	}
}

// say adds a finding about the host.
func (d *doctor) say(f Finding) {
	key := f.Key()
	d.found[key] = &finding{Finding: f, typical: true}
	d.order = append(d.order, key)
}

// unsaid are what the caller knows and no explanation has said: of a rival, or of an interface's
// forwarding, both may.
func (d *doctor) unsaid() (list []Finding) {
	for _, k := range d.Known {
		if !slices.ContainsFunc(d.result.Findings, func(f Finding) bool { return f.Kind == k.Kind && tells(f.Thing, k.Thing+" "+k.What) }) {
			list = append(list, k)
		}
	}
	return list
}

// tells reports whether a text names a thing: a table, an address, a setting.
func tells(thing, text string) bool {
	name, _, _ := strings.Cut(thing, ",")
	name, _, _ = strings.Cut(name, " = ")
	return name != "" && (strings.Contains(text, name) || strings.Contains(strings.ReplaceAll(text, "/", "."), name))
}
