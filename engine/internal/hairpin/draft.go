// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hairpin

import (
	"maps"
	"slices"
	"strings"

	"github.com/nftnat/nftnat/internal/order"
)

// Draft is a change of hairpin modes.
//
// An engine can be killed between any two steps: so a port is put back before its record
// is removed, and recorded before it gets the mode. The next engine puts back what is
// recorded and not needed.
type Draft struct {
	c     *Controller
	after state
	on    []Link // the ports that get the mode
}

func (c *Controller) draft() *Draft {
	return &Draft{c: c, after: state{maps.Clone(c.backends), maps.Clone(c.ports)}}
}

// portLost is for a port that was deleted or left its bridge: the mode went with it.
func (d *Draft) portLost(index int) {
	d.renameRecords(d.after.ports[index].name, "")
	delete(d.after.ports, index)
	for a, b := range d.after.backends {
		if b.port == index {
			b.port = 0
			d.after.backends[a] = b
		}
	}
}

func (d *Draft) renameRecords(from, to string) {
	for a, b := range d.after.backends {
		if b.record == from {
			b.record = to
			d.after.backends[a] = b
		}
	}
}

// decide decides on the mode of a port that a backend is behind.
func (d *Draft) decide(l Link) mode {
	before := d.after.ports[l.Index]
	if before.bridge != l.Bridge { // it left, and came back as another
		before = port{}
	}
	if before.mode == modeOurs && before.name != l.Name {
		d.renameRecords(before.name, l.Name)
	}
	m := modeOurs
	switch {
	case !switchable(l):
		m = modeUntouched
		if before.mode != m {
			d.c.log.Warn("hairpin mode is left as it is: a backend cannot reach itself by its frontend",
				"port", l.Name, "because", "the port is not a virtual one of a single machine")
		}
	case l.Hairpin && before.mode != modeOurs:
		m = modeOthers
	case l.Hairpin:
	case before.mode == modeOurs, before.mode == modeOthers:
		d.c.log.Warn("hairpin mode was switched off by somebody else and stays off", "port", l.Name)
		m = modeLeftOff
		d.renameRecords(l.Name, "")
	case before.mode == modeLeftOff:
		m = modeLeftOff
	default:
		d.on = append(d.on, l)
	}
	d.after.ports[l.Index] = port{l.Name, l.Bridge, m}
	return m
}

// switchable reports whether a port may be given hairpin mode. With it, a port sends back
// the broadcasts that it receives. A single machine drops them; in a segment with several
// machines, switches would take this port for that of the sender. The name must be usable
// as a comment.
func switchable(l Link) bool {
	return slices.Contains([]string{"veth", "tun", "netkit"}, l.Kind) && Recordable(l.Name)
}

// Recordable reports whether a name can be the comment of a record: it is an interface's,
// and free of characters that have a meaning in comments or that nft(8) cannot read.
func Recordable(name string) bool {
	refused := func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"[]\`, r) }
	return name != "" && len(name) <= maxInterfaceName && !strings.ContainsFunc(name, refused)
}

// maxInterfaceName is IFNAMSIZ of include/uapi/linux/if.h, without the final NUL.
const maxInterfaceName = 15

// PutBack takes hairpin mode from the ports that no backend needs any more. If that fails
// the port stays recorded, and the next change tries again. undo gives the mode back.
func (d *Draft) PutBack() (undo func() error) {
	needed, failed := map[string]bool{}, map[string]bool{}
	for _, b := range d.after.backends {
		needed[b.record] = true
	}
	var changed []Link
	for index, p := range d.after.ports {
		if p.mode != modeOurs || needed[p.name] {
			continue
		}
		l, err := d.c.bridges.Link(index)
		asLeft := err == nil && l.Bridge == p.bridge && l.Hairpin && switchable(l)
		if asLeft {
			err = d.c.bridges.SetHairpin(index, false)
		}
		switch {
		case err != nil && !isGone(err):
			d.c.log.Warn("hairpin mode could not be put back", "port", p.name, "error", err)
			failed[p.name] = true
			continue
		case asLeft:
			d.c.log.Info("put hairpin mode back", "port", p.name)
			changed = append(changed, l)
		}
		delete(d.after.ports, index)
	}
	for a, b := range d.c.backends {
		if failed[b.record] {
			again := d.after.backends[a]
			again.record = b.record
			d.after.backends[a] = again
		}
	}
	return func() error { return d.c.setHairpin(changed, true) }
}

// SwitchOn gives the mode to the ports that are recorded for the first time. A port that
// cannot have it is no reason to refuse a change. undo takes the mode from them again.
func (d *Draft) SwitchOn() (undo func() error) {
	for _, l := range d.on {
		if err := d.c.bridges.SetHairpin(l.Index, true); err != nil {
			d.c.log.Warn("hairpin mode could not be switched on: a backend cannot reach itself by its frontend",
				"port", l.Name, "error", err)
			delete(d.after.ports, l.Index)
			continue
		}
		d.c.log.Info("switched hairpin mode on, for a backend to reach itself by its frontend", "port", l.Name)
	}
	return func() error { return d.c.setHairpin(d.on, false) }
}

// records returns the records that another state does not have, in order.
func (s state) records(other state) []Record {
	var rs []Record
	for a, b := range s.backends {
		if b.record != "" && b.record != other.backends[a].record {
			rs = append(rs, Record{a, b.record})
		}
	}
	order.Sort(rs, func(x, y Record) int { return x.Backend.Compare(y.Backend) })
	return rs
}
