// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/nft"
)

// The order is that of a process which can be killed between any two steps: a port is
// put back before the record of it goes, and a record is there before a port is given
// the mode. What is recorded and needless is put back by the next engine.

// putBack takes hairpin mode from the ports that have it for nobody any more. Those of
// which it cannot be taken stay recorded, for the next change to try again.
func (d *hairpinDraft) putBack() {
	kept := map[string]bool{}
	for _, name := range d.records {
		kept[name] = true
	}
	tried := map[string]error{}
	for a, name := range d.of.records {
		if kept[name] || d.settled[name] {
			continue
		}
		err, done := tried[name]
		if !done {
			err = d.putBackPort(name)
			tried[name] = err
			if err != nil {
				d.of.log.Warn("hairpin mode could not be put back", "port", name, "error", err)
			}
		}
		if err != nil {
			d.records[a] = name
		}
	}
}

func (d *hairpinDraft) putBackPort(name string) error {
	l, err := d.of.bridges.linkNamed(name)
	switch {
	case notThere(err):
		return nil
	case err != nil:
		return err
	case l.bridge == 0 || !l.hairpin || !switchable(l): // not as an engine has left it
		return nil
	}
	if err := d.of.bridges.setHairpin(l.index, false); err != nil && !notThere(err) {
		return err
	}
	d.of.log.Info("put hairpin mode back", "port", name)
	d.reset = append(d.reset, l)
	d.ports[l.index] = hairpinPort{name: name, bridge: l.bridge}
	return nil
}

// undoPutBack gives the ports the mode again.
func (d *hairpinDraft) undoPutBack() error {
	var errs []error
	for _, l := range d.reset {
		if err := d.of.bridges.setHairpin(l.index, true); err != nil && !notThere(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// switchOn gives the mode to the ports that are recorded for the first time. A port
// that cannot have it is no reason to publish nothing.
func (d *hairpinDraft) switchOn() {
	for _, l := range d.on {
		if err := d.of.bridges.setHairpin(l.index, true); err != nil {
			d.of.log.Warn("hairpin mode could not be switched on: a backend cannot reach itself by its frontend",
				"port", l.name, "error", err)
			delete(d.ports, l.index)
			continue
		}
		d.of.log.Info("switched hairpin mode on, for a backend to reach itself by its frontend", "port", l.name)
	}
}

// undoSwitchOn takes the mode from them again.
func (d *hairpinDraft) undoSwitchOn() error {
	var errs []error
	for _, l := range d.on {
		if err := d.of.bridges.setHairpin(l.index, false); err != nil && !notThere(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// removed and added are the elements by which the records change.

func (d *hairpinDraft) removed() []nft.Element {
	if d == nil {
		return nil
	}
	return recordElements(d.of.records, d.records)
}

func (d *hairpinDraft) added() []nft.Element {
	if d == nil {
		return nil
	}
	return recordElements(d.records, d.of.records)
}

// all are the elements of all records as they will be.
func (h *hairpins) all(d *hairpinDraft) []nft.Element {
	if d != nil {
		return recordElements(d.records, nil)
	}
	return recordElements(h.records, nil)
}

// recordElements are the elements of those records that others do not have.
func recordElements(records, others map[netip.Addr]string) []nft.Element {
	var es []nft.Element
	for _, a := range slices.SortedFunc(maps.Keys(records), netip.Addr.Compare) {
		if other, ok := others[a]; !ok || other != records[a] {
			es = append(es, recordElement(a, records[a]))
		}
	}
	return es
}

// note makes the draft what is known.
func (h *hairpins) note(d *hairpinDraft) {
	if d == nil {
		return
	}
	h.records = d.records
	maps.Copy(h.places, d.places)
	for _, a := range d.gone {
		delete(h.places, a)
	}
	for _, index := range d.lost {
		delete(h.ports, index)
	}
	maps.Copy(h.ports, d.ports)
	// What is known of a port ends with the last backend behind it.
	needed := map[int]bool{}
	for _, at := range h.places {
		needed[at.port] = true
	}
	names := map[string]bool{}
	for _, name := range h.records {
		names[name] = true
	}
	maps.DeleteFunc(h.ports, func(index int, p hairpinPort) bool { return !needed[index] && !names[p.name] })
}
