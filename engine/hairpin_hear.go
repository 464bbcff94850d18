// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"maps"
	"net/netip"
	"slices"
)

// hearing is the part of Run that follows backends to the ports that they are behind.
// Its zero value hears nothing.
type hearing struct {
	engine *Engine
	watch  *bridgeWatch
	joined bool
}

// startHearing begins to watch, and catches up with what has happened before.
func (e *Engine) startHearing() *hearing {
	h := &hearing{engine: e}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.hairpins.watch == nil {
		return h
	}
	w, err := e.hairpins.watch()
	if err != nil {
		e.log.Warn("bridges are not watched: backends that appear later or move may not reach themselves by their frontends",
			"error", err)
		return h
	}
	h.watch = w
	e.hairpins.watched = true
	h.catchUp()
	return h
}

// stop ends the watch.
func (h *hearing) stop() {
	if h.watch == nil {
		return
	}
	h.watch.close()
	h.engine.mu.Lock()
	defer h.engine.mu.Unlock()
	h.engine.hairpins.watched = false
}

// heard tells that there is something to hear.
func (h *hearing) heard() <-chan struct{} {
	if h.watch == nil {
		return nil
	}
	return h.watch.heard
}

// hear takes what was heard and acts on it.
func (h *hearing) hear() {
	e := h.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	events, lost := h.watch.take()
	anyBridge := slices.ContainsFunc(events, func(ev bridgeEvent) bool { return ev.kind != neighbourChanged })
	if lost || anyBridge && !h.joined {
		h.catchUp()
		return
	}
	e.hearBridges(events)
}

// catchUp looks at everything, having joined what there is to hear once there is a
// bridge with a port.
func (h *hearing) catchUp() {
	e := h.engine
	ports, err := e.hairpins.bridges.ports()
	if err == nil && len(ports) != 0 && !h.joined {
		if err = h.watch.join(); err == nil {
			h.joined = true
		}
	}
	if err == nil && len(ports) != 0 {
		err = e.lookAtAll(ports)
	}
	if err != nil {
		e.log.Warn("bridges could not be looked at", "error", err)
	}
}

// attention is what is to be looked at because of something that has happened.
type attention struct {
	backends map[netip.Addr]bool
	// ports by their indices, and whether they are known to have left their bridges since
	// they were looked at.
	ports map[int]bool
}

// lookAtAll looks at all backends of which something is known, and at those that are
// neighbours on a bridge.
func (e *Engine) lookAtAll(ports []bridgeLink) error {
	h := e.hairpins
	look := attention{map[netip.Addr]bool{}, map[int]bool{}}
	onBridge := map[int]bool{}
	for _, p := range ports {
		onBridge[p.bridge] = true
	}
	neighbours, err := h.bridges.neighbours()
	for _, n := range neighbours {
		if onBridge[n.link] && e.backends[n.addr] > 0 {
			look.backends[n.addr] = true
		}
	}
	for a := range h.places {
		look.backends[a] = true
	}
	for a := range h.records {
		look.backends[a] = true
	}
	for index := range h.ports {
		look.ports[index] = false
	}
	e.attend(look)
	return err
}

// hearBridges looks at what the events are about, as far as it matters.
func (e *Engine) hearBridges(events []bridgeEvent) {
	h := e.hairpins
	look := attention{map[netip.Addr]bool{}, map[int]bool{}}
	var stations map[hardwareAddr][]netip.Addr // made when it is needed
	for _, ev := range events {
		switch ev.kind {
		case bridgeChanged:
			if h.hooks[ev.link] != ev.hooks {
				h.hooks[ev.link] = ev.hooks
				e.lookAtBridge(look, ev.link)
			}
		case portChanged, portLeft:
			if _, known := h.ports[ev.link]; known {
				look.ports[ev.link] = look.ports[ev.link] || ev.kind == portLeft
			}
		case neighbourChanged:
			at, known := h.places[ev.addr]
			same := known && at.port != 0 && at.bridge == ev.link && at.mac == ev.mac
			if !same && e.backends[ev.addr] > 0 {
				look.backends[ev.addr] = true
			}
		case stationSeen:
			if stations == nil {
				stations = h.byStation()
			}
			h.hearStation(look, ev, stations)
		}
	}
	e.attend(look)
}

// hearStation looks at backends that were seen at another port than before.
func (h *hairpins) hearStation(look attention, ev bridgeEvent, stations map[hardwareAddr][]netip.Addr) {
	stays := false
	for _, a := range stations[ev.mac] {
		at := h.places[a]
		stays = stays || at.bridge == ev.bridge && at.port == ev.link
		if at.bridge == ev.bridge && at.port != ev.link {
			look.backends[a] = true
		}
	}
	if stays {
		return
	}
	// Somebody is new here: it may be who is missing. Those have no address yet.
	for _, a := range stations[hardwareAddr{}] {
		if h.places[a].bridge == ev.bridge {
			look.backends[a] = true
		}
	}
}

// byStation are the backends by their link layer addresses.
func (h *hairpins) byStation() map[hardwareAddr][]netip.Addr {
	all := map[hardwareAddr][]netip.Addr{}
	for a, at := range h.places {
		all[at.mac] = append(all[at.mac], a)
	}
	return all
}

// lookAtBridge adds the backends on a bridge whose hooks have changed: those of which
// nothing is known are its neighbours.
func (e *Engine) lookAtBridge(look attention, bridge int) {
	neighbours, err := e.hairpins.bridges.neighbours()
	if err != nil {
		e.log.Warn("bridges could not be looked at", "error", err)
	}
	for _, n := range neighbours {
		if n.link == bridge && e.backends[n.addr] > 0 {
			look.backends[n.addr] = true
		}
	}
}

// attend looks at ports that may have gone or changed, and for backends that may be
// elsewhere.
func (e *Engine) attend(look attention) {
	h := e.hairpins
	if h.bridges == nil || len(look.backends)+len(look.ports) == 0 {
		return
	}
	d := h.draft()
	for _, index := range slices.Sorted(maps.Keys(look.ports)) {
		l, err := h.bridges.link(index)
		switch {
		case notThere(err), err == nil && l.bridge != h.ports[index].bridge:
			d.lose(index)
		case err == nil && look.ports[index] && !l.hairpin:
			// It is back already, as another: its mode went with it, and nobody has switched
			// it off. One that has the mode was looked at since.
			d.lose(index)
		case err != nil:
			e.log.Warn("a bridge port could not be looked at", "port", h.ports[index].name, "error", err)
			continue
		}
		for a, at := range h.places {
			if at.port == index {
				look.backends[a] = true
			}
		}
	}
	search := map[netip.Addr]int{}
	for a := range look.backends {
		if e.backends[a] == 0 || !e.searchFor(search, a) && h.tracks(a) {
			d.leave(a)
		}
	}
	e.search(context.Background(), d, search, false)
	e.applyHairpins(d)
}

// releaseHairpins puts back the ports of backends to which nothing leads any more since
// mappings have ended by themselves.
func (e *Engine) releaseHairpins() {
	if e.hairpins.bridges == nil || len(e.hairpins.records)+len(e.hairpins.places) == 0 {
		return
	}
	leavers := e.leavers(change{})
	if len(leavers) == 0 {
		return
	}
	d := e.hairpins.draft()
	for _, a := range leavers {
		d.leave(a)
	}
	e.applyHairpins(d)
}
