// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// A bridge does not send a frame out of the port that it came in by, unless the port
// has hairpin mode. Where bridged frames pass netfilter's IP hooks (bridge-nf-call-…),
// a backend that calls a frontend of its own is translated while its frame is being
// bridged, and the frame is to go back just there. So the port that a published
// backend is behind is given the mode, and it is taken back with the last of them.

// hairpins are the bridge ports that published backends are behind.
type hairpins struct {
	bridges bridges // nil: nothing is looked for and nothing changed
	log     *slog.Logger
	// watch subscribes to what happens to bridges. Nil: nobody can.
	watch func() (*bridgeWatch, error)
	// watched is whether Run hears what happens, so that what is known holds.
	watched bool
	// records are the ports that were given hairpin mode, by the backends they were
	// given it for, as the table has them. Ports that had it already are not there.
	records map[netip.Addr]string
	// places are where backends on bridges whose frames pass the hooks are.
	places map[netip.Addr]position
	// ports are those that backends were found behind, by index.
	ports map[int]hairpinPort
	// hooks are those of single bridges, by index, as they were last seen.
	hooks map[int]hooks
}

// position is where a backend is.
type position struct {
	bridge int
	mac    hardwareAddr // zero: not known
	port   int          // zero: not known
}

// hairpinPort is what was made of a port.
type hairpinPort struct {
	name   string
	bridge int
	mode   hairpinMode
}

type hairpinMode int

const (
	// hairpinOurs was switched on by an engine.
	hairpinOurs hairpinMode = iota + 1
	// hairpinOthers was on already.
	hairpinOthers
	// hairpinLeft was on, and somebody else has switched it off.
	hairpinLeft
	// hairpinNever is not to be touched.
	hairpinNever
)

func newHairpins(log *slog.Logger) *hairpins {
	return &hairpins{
		log: log, records: map[netip.Addr]string{}, places: map[netip.Addr]position{},
		ports: map[int]hairpinPort{}, hooks: map[int]hooks{},
	}
}

// tracks reports whether anything is known of a backend.
func (h *hairpins) tracks(a netip.Addr) bool {
	_, placed := h.places[a]
	_, recorded := h.records[a]
	return placed || recorded
}

// hairpinDraft is a change of hairpin modes while it is worked out: records and the
// rest as they will be.
type hairpinDraft struct {
	of      *hairpins
	records map[netip.Addr]string
	places  map[netip.Addr]position // that are to be noted
	ports   map[int]hairpinPort     // that were looked at
	lost    []int                   // ports that are none any more
	gone    []netip.Addr            // backends that are not published any more
	on      []bridgeLink
	// recorded are the names of ports in the records as they are.
	recorded map[string]bool
	// settled are names of ports about which there is nothing to be put back though
	// no record has them any more.
	settled map[string]bool
	// reset are ports that were put back, for undoing.
	reset []bridgeLink
}

func (h *hairpins) draft() *hairpinDraft {
	d := &hairpinDraft{
		of: h, records: maps.Clone(h.records), places: map[netip.Addr]position{},
		ports: map[int]hairpinPort{}, recorded: map[string]bool{}, settled: map[string]bool{},
	}
	for _, name := range h.records {
		d.recorded[name] = true
	}
	return d
}

// leave is for a backend that is not published any more, or not on a bridge.
func (d *hairpinDraft) leave(a netip.Addr) {
	delete(d.records, a)
	d.gone = append(d.gone, a)
}

// lose is for a port that is not there any more, or not a port of the bridge: its mode
// has gone with it.
func (d *hairpinDraft) lose(index int) {
	p := d.of.ports[index]
	d.lost = append(d.lost, index)
	d.loseNamed(p.name)
	for a, at := range d.of.places {
		if at.port == index {
			d.places[a] = position{bridge: at.bridge, mac: at.mac}
		}
	}
}

func (d *hairpinDraft) loseNamed(name string) {
	d.settled[name] = true
	delete(d.recorded, name)
	maps.DeleteFunc(d.records, func(_ netip.Addr, port string) bool { return port == name })
}

// settle is for a backend that was looked for.
func (d *hairpinDraft) settle(a netip.Addr, f foundBackend) {
	d.places[a] = f.position
	switch {
	case f.port == 0: // what it was recorded for may still be
	case d.decide(f.link) == hairpinOurs:
		d.records[a] = f.link.name
	default:
		delete(d.records, a)
	}
}

// decide says, once in a draft, what becomes of a port that a backend is behind.
func (d *hairpinDraft) decide(l bridgeLink) hairpinMode {
	if p, done := d.ports[l.index]; done {
		return p.mode
	}
	was, known := d.of.ports[l.index]
	if known && (was.bridge != l.bridge || slices.Contains(d.lost, l.index)) { // it has left, and come as another
		was, known = hairpinPort{}, false
	}
	if known && was.name != l.name && was.mode == hairpinOurs {
		d.rename(was.name, l.name)
	}
	p := hairpinPort{name: l.name, bridge: l.bridge}
	switch {
	case !switchable(l):
		p.mode = hairpinNever
		if was.mode != hairpinNever {
			d.of.log.Warn("hairpin mode is left as it is: a backend cannot reach itself by its frontend",
				"port", l.name, "because", "the port is not a virtual one of a single machine")
		}
	case l.hairpin && d.recorded[l.name]:
		p.mode = hairpinOurs
	case l.hairpin:
		p.mode = hairpinOthers
	case was.mode == hairpinOurs, was.mode == hairpinOthers:
		d.of.log.Warn("hairpin mode was switched off by somebody else and stays off", "port", l.name)
		p.mode = hairpinLeft
		d.loseNamed(l.name)
	case was.mode == hairpinLeft:
		p.mode = hairpinLeft
	default:
		p.mode = hairpinOurs
		d.on = append(d.on, l)
	}
	d.ports[l.index] = p
	return p.mode
}

// rename has the records follow a port that has got another name.
func (d *hairpinDraft) rename(from, to string) {
	d.settled[from], d.recorded[to] = true, true
	for a, port := range d.records {
		if port == from {
			d.records[a] = to
		}
	}
}

// switchable reports whether a port may be given hairpin mode. With it, a port sends
// back what it brings of broadcasts: to a single machine, which drops them, but not
// into a segment with others on it, whose switches would look for the sender here. It
// must have a name that a comment can hold.
func switchable(l bridgeLink) bool {
	return slices.Contains([]string{"veth", "tun", "netkit"}, l.kind) && recordable(l.name)
}

// recordable reports whether a name can be the comment of a record: it is an
// interface's, and free of what comments give a meaning to or nft(8) cannot read.
func recordable(name string) bool {
	strange := func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"[]\`, r) }
	return name != "" && len(name) <= maxInterfaceName && !strings.ContainsFunc(name, strange)
}

// maxInterfaceName is IFNAMSIZ of include/uapi/linux/if.h, without the final NUL.
const maxInterfaceName = 15
