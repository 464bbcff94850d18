// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"github.com/nftnat/nftnat/engine/internal/sleep"
)

// foundBackend is where a backend is, and its port as it is now.
type foundBackend struct {
	position
	link bridgeLink
}

// searchPauses are between one look at a backend that was asked where it is and the
// next. One that is there answers within less than a millisecond; for one that is not,
// nobody should wait longer than a person notices. Where Run watches, it hears the
// rest.
const (
	searchPause         = time.Millisecond // the first; each is twice as long as the one before
	searchPauses        = 5
	searchPausesWatched = 3
)

// maxSolicited bounds how many backends are asked where they are at a time. Those of a
// bulk show themselves when they have something to send; to ask them all would push
// others out of the neighbour table (gc_thresh3 of arp(7) is 1024).
const maxSolicited = 256

// search looks for backends on bridges.
type search struct {
	h *hairpins
	// missing are those that are still to be found, by address, with their bridges.
	missing map[netip.Addr]int
	found   map[netip.Addr]foundBackend
	links   map[int]bridgeLink // that were looked up, by index
}

// find looks for backends, given with the bridges that the routing table says they are
// on. Those on bridges whose frames pass no hooks are not among what is found; those
// that could not be found are, without a port. It asks for these, and waits for answers
// if it is to.
func (h *hairpins) find(ctx context.Context, backends map[netip.Addr]int, wait bool) (map[netip.Addr]foundBackend, error) {
	if len(backends) == 0 {
		return nil, nil
	}
	s := &search{h: h, missing: map[netip.Addr]int{}, found: map[netip.Addr]foundBackend{}, links: map[int]bridgeLink{}}
	if err := s.onlyHooked(backends); err != nil || len(s.missing) == 0 {
		return nil, err
	}
	err := s.look()
	if err != nil || len(s.missing) == 0 || len(s.missing) > maxSolicited {
		return s.found, err
	}
	pauses := searchPauses
	switch {
	case !wait:
		pauses = 0
	case h.watched:
		pauses = searchPausesWatched
	}
	err = s.solicit()
	for n := range pauses {
		if err != nil || len(s.missing) == 0 {
			break
		}
		if sleep.For(ctx, searchPause<<n) != nil {
			break // the change does not come to pass
		}
		err = s.look()
	}
	return s.found, err
}

// onlyHooked leaves out backends on bridges whose frames pass no hooks of their family.
func (s *search) onlyHooked(backends map[netip.Addr]int) error {
	everywhere, err := s.h.bridges.hooked()
	if isNotExist(err) {
		return nil // without br_netfilter a bridge's own switch does nothing
	}
	if err != nil {
		return err
	}
	for a, bridge := range backends {
		l, err := s.link(bridge)
		if isNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		s.h.hooks[bridge] = l.hooks
		if l.kind == kindBridge && everywhere.or(l.hooks).of(a) {
			s.missing[a] = bridge
			s.found[a] = foundBackend{position: position{bridge: bridge}}
		}
	}
	return nil
}

func (s *search) link(index int) (bridgeLink, error) {
	l, ok := s.links[index]
	if ok {
		return l, nil
	}
	l, err := s.h.bridges.link(index)
	if err == nil {
		s.links[index] = l
	}
	return l, err
}

// look looks once at each that is missing, and once at each bridge.
func (s *search) look() error {
	known := map[int][]hardwareAddr{}
	for a, bridge := range s.missing {
		mac, err := s.h.bridges.neighbour(bridge, a)
		if isNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		s.found[a] = foundBackend{position: position{bridge: bridge, mac: mac}}
		known[bridge] = append(known[bridge], mac)
	}
	for bridge, macs := range known {
		stations, err := s.h.bridges.stations(s.links[bridge], macs)
		if err != nil {
			return err
		}
		if err := s.place(bridge, stations); err != nil {
			return err
		}
	}
	return nil
}

// place notes what is missing and among the stations of a bridge.
func (s *search) place(bridge int, stations map[hardwareAddr]int) error {
	for a, on := range s.missing {
		at := s.found[a].position
		port, ok := stations[at.mac]
		if on != bridge || !ok {
			continue
		}
		l, err := s.link(port)
		if isNotExist(err) || err == nil && l.bridge != bridge { // gone since
			continue
		}
		if err != nil {
			return err
		}
		at.port = port
		s.found[a] = foundBackend{at, l}
		delete(s.missing, a)
	}
	return nil
}

// solicit asks those that are missing where they are.
func (s *search) solicit() error {
	for a, bridge := range s.missing {
		known := s.found[a].mac != hardwareAddr{}
		if err := s.h.bridges.solicit(bridge, a, known); err != nil && !notThere(err) {
			return err
		}
	}
	return nil
}

// backends are those that were found, or not, in order.
func backendsOf(found map[netip.Addr]foundBackend) []netip.Addr {
	all := make([]netip.Addr, 0, len(found))
	for a := range found {
		all = append(all, a)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
