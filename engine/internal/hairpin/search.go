// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hairpin

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/nftnat/nftnat/engine/internal/sleep"
)

// A backend answers a solicitation within less than a millisecond. For one that does not
// exist, a call should not wait longer than a person notices. A follower receives later
// answers.
const (
	searchPause           = time.Millisecond // the first; each is twice as long as the one before
	searchPauses          = 5
	searchPausesFollowing = 3
)

// maxSolicited bounds how many backends are solicited at a time. More would push other
// hosts out of the neighbour table (gc_thresh3 of arp(7) is 1024). The others are found
// when they send something.
const maxSolicited = 256

// search looks for backends on bridges.
type search struct {
	c *Controller
	// found are the backends on bridges whose frames pass the hooks; missing ones have no
	// port.
	found   map[netip.Addr]position
	missing int
	links   map[int]Link // that were looked up, by index
}

// search looks for backends on their bridges, and records their positions. It solicits
// those that it does not find, and waits for answers for so many pauses.
func (d *Draft) search(ctx context.Context, backends map[netip.Addr]int, pauses int) {
	if len(backends) == 0 {
		return
	}
	s := &search{c: d.c, found: map[netip.Addr]position{}, links: map[int]Link{}}
	if err := s.run(ctx, backends, pauses); err != nil {
		d.c.log.Warn("backends could not be looked for on their bridge", "error", err)
	}
	modes := map[int]mode{}
	for _, a := range slices.SortedFunc(maps.Keys(s.found), netip.Addr.Compare) {
		at := s.found[a]
		m, decided := modes[at.port]
		if !decided && at.port != 0 {
			m = d.decide(s.links[at.port])
			modes[at.port] = m
		}
		b := d.after.backends[a]
		b.position = at
		if at.port != 0 { // else that in its record may still be right
			b.record = ""
		}
		if m == modeOurs {
			b.record = s.links[at.port].Name
		}
		d.after.backends[a] = b
	}
}

func (s *search) run(ctx context.Context, backends map[netip.Addr]int, pauses int) error {
	if err := s.selectHooked(backends); err != nil {
		return err
	}
	err := s.lookUp()
	if err != nil || s.missing == 0 || s.missing > maxSolicited {
		return err
	}
	for a, at := range s.found {
		if at.port == 0 && err == nil {
			err = s.c.bridges.Solicit(at.bridge, a, at.mac != HardwareAddr{})
		}
		if isGone(err) {
			err = nil
		}
	}
	for n := 0; n < pauses && err == nil && s.missing != 0; n++ {
		if sleep.For(ctx, searchPause<<n) != nil {
			break // the caller does not make the change
		}
		err = s.lookUp()
	}
	return err
}

// selectHooked adds to missing the backends whose frames pass hooks of their family.
func (s *search) selectHooked(backends map[netip.Addr]int) error {
	everywhere, err := s.c.bridges.Hooks()
	if isNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if f := s.c.follower; f != nil && everywhere != f.hooks {
		f.stale = true
	}
	for a, bridge := range backends {
		l, err := s.link(bridge)
		if isNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		s.c.hooks[bridge] = l.Hooks
		if l.Kind == kindBridge && everywhere.or(l.Hooks).include(a) {
			s.found[a] = position{bridge: bridge}
		}
	}
	s.missing = len(s.found)
	return nil
}

func (s *search) link(index int) (Link, error) {
	l, ok := s.links[index]
	if ok {
		return l, nil
	}
	l, err := s.c.bridges.Link(index)
	if err == nil {
		s.links[index] = l
	}
	return l, err
}

// lookUp looks up each missing backend once, and the forwarding database of each bridge once.
func (s *search) lookUp() error {
	macs := map[int][]HardwareAddr{}
	for a, at := range s.found {
		if at.port != 0 {
			continue
		}
		mac, err := s.c.bridges.Neighbour(at.bridge, a)
		if isNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		s.found[a] = position{bridge: at.bridge, mac: mac}
		macs[at.bridge] = append(macs[at.bridge], mac)
	}
	for bridge, macs := range macs {
		fdb, err := s.c.bridges.FDB(s.links[bridge], macs)
		if err != nil {
			return err
		}
		for a, at := range s.found {
			port, ok := fdb[at.mac]
			if !ok || at.port != 0 || at.bridge != bridge {
				continue
			}
			l, err := s.link(port)
			if isNotExist(err) || err == nil && l.Bridge != bridge { // it has left since
				continue
			}
			if err != nil {
				return err
			}
			s.found[a] = position{bridge, at.mac, port}
			s.missing--
		}
	}
	return nil
}
