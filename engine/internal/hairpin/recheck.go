// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hairpin

import (
	"context"
	"maps"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
)

// Recheck looks up the ports and backends that have changed, and switches ports.
// lost is whether events are missing: then all are looked up.
func (f *Follower) Recheck(events []Event, lost bool) {
	if f == nil || !lost && len(events) == 0 {
		return
	}
	isAboutBridges := func(ev Event) bool { return ev.kind != neighbourChanged }
	if lost || !f.joined && slices.ContainsFunc(events, isAboutBridges) {
		f.c.recheckAll(f.join)
		return
	}
	f.c.handle(events)
}

// FollowRoutes looks for backends whose routes lead to another bridge than before, or to a
// bridge on which they were not found. It waits for nothing: answers come as events. Without
// a follower it does nothing.
func (c *Controller) FollowRoutes(routes hostnet.RouteMap) {
	f := c.follower
	if c.bridges == nil || f == nil {
		return
	}
	all := f.hooksChanged()
	f.onBridges = false
	search := map[netip.Addr]int{}
	for a, r := range routes.All {
		f.onBridges = f.onBridges || r.Bridge != 0
		if b := c.backends[a]; r.Bridge != 0 && (all || b.port == 0 || b.bridge != r.Bridge) {
			search[a] = r.Bridge
		}
	}
	if len(search) == 0 && len(c.backends) == 0 {
		return
	}
	d := c.draft()
	if all {
		clear(d.after.backends)
	}
	maps.DeleteFunc(d.after.backends, func(a netip.Addr, _ backend) bool {
		return c.host.Published(a) <= 0 || routes.Of(a).Bridge == 0
	})
	d.search(context.Background(), search, 0)
	c.Apply(d)
}

// Poll reports whether it was changed since the last FollowRoutes which frames pass
// netfilter: nothing notifies of that setting (bridge-nf-call-iptables).
func (f *Follower) Poll() bool {
	if f == nil || f.c.bridges == nil || !f.onBridges {
		return false
	}
	now, err := f.c.bridges.Hooks()
	return err == nil && (now != f.hooks || f.stale)
}

// hooksChanged looks up which frames pass netfilter, and reports whether that has changed.
func (f *Follower) hooksChanged() bool {
	now, err := f.c.bridges.Hooks()
	if err != nil {
		now = Hooks{}
	}
	changed := now != f.hooks || f.stale
	f.hooks, f.stale = now, false
	return changed
}

// recheckSet are the ports and backends to look up again.
type recheckSet struct {
	backends map[netip.Addr]bool
	// ports by index, and whether they have left their bridges, as an event says.
	ports map[int]bool
}

// recheckAll rechecks all known backends, and those that are neighbours on a bridge. It
// calls join first. If no bridge has a port it does nothing.
func (c *Controller) recheckAll(join func() error) {
	ports, err := c.bridges.Ports()
	if err == nil && len(ports) != 0 {
		err = join()
	}
	if err != nil {
		c.log.Warn("bridges could not be looked at", "error", err)
	}
	if err != nil || len(ports) == 0 {
		return
	}
	set := recheckSet{map[netip.Addr]bool{}, map[int]bool{}}
	bridges := map[int]bool{}
	for _, p := range ports {
		bridges[p.Bridge] = true
	}
	c.addNeighbours(set, bridges)
	for a := range c.backends {
		set.backends[a] = true
	}
	for index := range c.ports {
		set.ports[index] = false
	}
	c.recheck(set)
}

// addNeighbours adds the backends that are neighbours on the bridges.
func (c *Controller) addNeighbours(set recheckSet, bridges map[int]bool) {
	neighbours, err := c.bridges.Neighbours()
	if err != nil {
		c.log.Warn("bridges could not be looked at", "error", err)
	}
	for _, n := range neighbours {
		if bridges[n.Link] && c.host.Published(n.Addr) > 0 {
			set.backends[n.Addr] = true
		}
	}
}

// handle rechecks the ports and backends of the events, except those that have not changed.
func (c *Controller) handle(events []Event) {
	set := recheckSet{map[netip.Addr]bool{}, map[int]bool{}}
	var byMAC map[HardwareAddr][]netip.Addr // made when it is needed
	for _, ev := range events {
		switch ev.kind {
		case bridgeChanged:
			if c.hooks[ev.link] != ev.hooks {
				c.hooks[ev.link] = ev.hooks
				c.addNeighbours(set, map[int]bool{ev.link: true})
			}
		case portChanged, portLeft:
			if _, known := c.ports[ev.link]; known {
				set.ports[ev.link] = set.ports[ev.link] || ev.kind == portLeft
			}
		case neighbourChanged:
			b := c.backends[ev.addr]
			same := b.port != 0 && b.bridge == ev.link && b.mac == ev.mac
			if !same && c.host.Published(ev.addr) > 0 {
				set.backends[ev.addr] = true
			}
		case addressLearned:
			if byMAC == nil {
				byMAC = map[HardwareAddr][]netip.Addr{}
				for a, b := range c.backends {
					byMAC[b.mac] = append(byMAC[b.mac], a)
				}
			}
			c.addLearned(set, ev, byMAC)
		}
	}
	c.recheck(set)
}

// addLearned adds the backends that may have an address which a bridge has learned at a
// port. Those behind that port already need no recheck.
func (c *Controller) addLearned(set recheckSet, ev Event, byMAC map[HardwareAddr][]netip.Addr) {
	known := false
	for _, a := range byMAC[ev.mac] {
		if b := c.backends[a]; b.bridge == ev.bridge {
			known = known || b.port == ev.link
			if b.port != ev.link {
				set.backends[a] = true
			}
		}
	}
	if known {
		return
	}
	// It may be a missing backend: these have no link layer address yet.
	for _, a := range byMAC[HardwareAddr{}] {
		if c.backends[a].bridge == ev.bridge {
			set.backends[a] = true
		}
	}
}

// recheck looks up ports that may have been deleted or changed, and backends that may be
// behind another port.
func (c *Controller) recheck(set recheckSet) {
	if c.bridges == nil || len(set.backends)+len(set.ports) == 0 {
		return
	}
	d := c.draft()
	for _, index := range slices.Sorted(maps.Keys(set.ports)) {
		l, err := c.bridges.Link(index)
		switch {
		case isGone(err), err == nil && l.Bridge != c.ports[index].bridge,
			// It left its bridge and came back as another port, so its mode was lost and
			// not switched off. If it has the mode, it was rechecked after that.
			err == nil && set.ports[index] && !l.Hairpin:
			d.portLost(index)
		case err != nil:
			c.log.Warn("a bridge port could not be looked at", "port", c.ports[index].name, "error", err)
			continue
		}
		for a, b := range c.backends {
			if b.port == index {
				set.backends[a] = true
			}
		}
	}
	search := map[netip.Addr]int{}
	for a := range set.backends {
		if bridge, ok := c.host.BridgeOf(a); ok && c.host.Published(a) > 0 {
			search[a] = bridge
		} else {
			delete(d.after.backends, a)
		}
	}
	d.search(context.Background(), search, 0)
	c.Apply(d)
}
