// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/portholder"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// sharedPorts are the ports of this host to which the table leads clients on this host who ask for a shared port.
type sharedPorts map[portholder.Local]uint16

// elements returns the elements of some of them.
func (s sharedPorts) elements() (es []nft.Element) {
	for l, at := range s {
		es = append(es, schema.SharedElement(l.Frontend, l.Is4, at))
	}
	return es
}

// leadShared leads clients on this host to the proxies of the shared ports of a change, and none to those that it ends.
func (e *core) leadShared(c *portset.Change) error {
	if !e.holder.Enabled() {
		return nil
	}
	want := e.movedShared()
	for _, m := range c.Moved {
		for l := range e.sharedOf(m.Before()) {
			if want[l] = e.holder.SharedAt(l); m.To.Hold != nat.HoldShared {
				want[l] = 0
			}
		}
	}
	for _, p := range c.Removed { // whose proxies are still there
		for l := range e.sharedOf(p) {
			want[l] = 0
		}
	}
	return e.changeShared(want)
}

// sharedOf yields those of the table that a port or a range has.
func (e *core) sharedOf(p portset.Port) iter.Seq[portholder.Local] {
	return func(yield func(portholder.Local) bool) {
		if p.More == 0 {
			for _, is4 := range []bool{true, false} {
				l := portholder.Local{Frontend: p.Frontend, Is4: is4}
				if _, ok := e.shared[l]; ok && !yield(l) {
					return
				}
			}
			return
		}
		for l := range e.shared {
			if p.Contains(l.Frontend) && !yield(l) {
				return
			}
		}
	}
}

// movedShared are the proxies that have come or are elsewhere than before.
func (e *core) movedShared() sharedPorts {
	want := sharedPorts{}
	for _, l := range e.holder.SharedMoved() {
		want[l] = e.holder.SharedAt(l)
	}
	return want
}

// followShared leads clients on this host to proxies that have come or moved apart from a change.
func (e *core) followShared() {
	if err := e.changeShared(e.movedShared()); err != nil {
		e.warnOfShared(err)
	}
}

func (e *core) warnOfShared(err error) {
	e.log.Warn("clients on this host could not be led to the proxies of shared ports", "table", e.opts.Table, "error", err)
}

// changeShared changes where some shared ports lead; zero: nowhere. UDP flows to what a port has led to before end, and of
// those that come anew the ones to the program that has the port.
func (e *core) changeShared(want sharedPorts) error {
	before, after := sharedPorts{}, sharedPorts{}
	for f, at := range want {
		switch was := e.shared[f]; {
		case was == at:
			continue
		case was != 0:
			before[f] = was
		}
		if at != 0 {
			after[f] = at
		}
	}
	return e.replaceShared(before.elements(), after, before)
}

// replaceShared makes elements go, and others come for the ports after.
func (e *core) replaceShared(gone []nft.Element, after, before sharedPorts) error {
	come := after.elements()
	if len(gone)+len(come) == 0 || !e.table.Present() {
		return nil
	}
	if err := e.table.UpdateFinally(nft.Change{Delete: inSets(gone), Add: inSets(come)}); err != nil {
		return fmt.Errorf("lead shared ports: %w", err)
	}
	if e.shared == nil {
		e.shared = sharedPorts{}
	}
	for f := range before {
		delete(e.shared, f)
	}
	maps.Copy(e.shared, after)
	return e.endShared(before, after)
}

// endShared ends UDP flows that lead elsewhere than the table says now. Those over TCP end by themselves: with the proxy, or
// with the program that has the port.
func (e *core) endShared(before, after sharedPorts) error {
	closed := map[uint16]bool{}
	ports := map[uint16]bool{}
	for f, at := range before {
		if f.Proto == nat.UDP && e.shared[f] != at {
			closed[at] = true
		}
	}
	for f := range after {
		if f.Proto == nat.UDP {
			ports[f.AddrPort.Port()] = true
		}
	}
	if len(closed)+len(ports) == 0 {
		return nil
	}
	_, err := e.flows.Delete(conntrack.Filter{Proto: uint8(nat.UDP)}, func(f conntrack.Flow) bool {
		if !f.ReplySrc.Addr().IsLoopback() {
			return false
		}
		translated := f.Status&conntrack.StatusDNAT != 0
		return translated && closed[f.ReplySrc.Port()] || !translated && ports[f.Dst.Port()]
	})
	return err
}

// syncShared makes the table lead to the proxies that there are, as far as it is known what it holds.
func (e *core) syncShared() error {
	if len(e.shared) == 0 && len(e.holder.SharedMoved()) == 0 {
		return nil
	}
	want := sharedPorts{}
	for f := range e.shared {
		want[f] = 0
	}
	maps.Insert(want, e.holder.Shared)
	return e.changeShared(want)
}

// adoptShared makes the table lead to the proxies that there are. found is what it has.
func (e *core) adoptShared(found []nft.Element) error {
	_ = e.holder.SharedMoved()
	want := sharedPorts{}
	maps.Insert(want, e.holder.Shared)
	ch := difference(found, want.elements())
	e.shared = want
	if len(ch.Delete)+len(ch.Add) == 0 {
		return nil
	}
	if err := e.table.UpdateFinally(ch); err != nil {
		return fmt.Errorf("lead shared ports: %w", err)
	}
	stale := sharedPorts{}
	for _, el := range ch.Delete { // what they lead to is all that counts
		stale[portholder.Local{Frontend: portset.Frontend{Proto: nat.UDP, AddrPort: el.Value}}] = el.Value.Port()
	}
	return e.endShared(stale, want)
}

// dropShared leads nobody to the proxies of ports that have ended.
func (e *core) dropShared(ended []portset.Port) {
	if e.opts.ReadOnly || len(e.shared) == 0 {
		return
	}
	want := sharedPorts{}
	for _, p := range ended {
		for f := range e.sharedOf(p) {
			want[f] = 0
		}
	}
	if err := e.changeShared(want); err != nil {
		e.warnOfShared(err)
	}
}

// leaveShared leads nobody to proxies that are about to be closed.
func (e *core) leaveShared() {
	want := sharedPorts{}
	for f := range e.shared {
		want[f] = 0
	}
	if err := e.changeShared(want); err != nil && !errors.Is(err, nat.ErrClosed) {
		e.warnOfShared(err)
	}
}

// sharedWarnings say which clients get the program that has a port.
func (e *core) sharedWarnings() (lines []string) {
	var remote, local, left int
	for p := range e.mappings.All {
		if p.Hold != nat.HoldShared || p.NoProxy {
			continue
		}
		if a := p.AddrPort.Addr(); !a.IsValid() || p.ProxiedOnly() && !a.IsLoopback() {
			remote += p.Len()
		}
		proxied := slices.ContainsFunc([]bool{true, false}, func(is4 bool) bool {
			return e.holder.SharedAt(portholder.Local{Frontend: p.Frontend, Is4: is4}) != 0
		})
		switch {
		case proxied:
		case e.programs.Localhost == nil || p.ProxyOnly:
			local += p.Len()
		case p.More != 0:
			left += p.Len()
		}
	}
	const has = "come to the program that has the port"
	if remote != 0 {
		lines = append(lines, fmt.Sprintf("%s (--hold shared): clients from elsewhere, of another family than the backend, %s", portsText(remote), has))
	}
	if local != 0 {
		lines = append(lines, fmt.Sprintf("%s (--hold shared): clients on localhost %s: to lead them past it takes a daemon, and for wide ranges eBPF", portsText(local), has))
	}
	if left != 0 {
		lines = append(lines, fmt.Sprintf("%s (--hold shared): clients on localhost that eBPF leaves alone, such as sockets bound to an address and UDP to ::1 without connect(2), %s", portsText(left), has))
	}
	return lines
}

func portsText(n int) string {
	if n == 1 {
		return "1 port"
	}
	return fmt.Sprintf("%d ports", n)
}
