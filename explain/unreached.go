// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/host"
)

// astray names the route by which packets for a backend go to another link than the one that the backend's
// address is of. Where it is not known to be silent there, a more specific route may well be right, and
// is not named.
func (x *walk) astray(w *way, backend netip.Addr, silent bool) *Cause {
	for _, index := range x.links() {
		d := x.device(index)
		bits := d.linkBits(backend)
		if index == w.out || bits < 0 {
			continue
		}
		missing := w.r.Dst.Bits() < bits
		switch {
		case missing && !d.Up():
			c := linkCause(d, d.Why())
			c.What = fmt.Sprintf("the route to %s is gone with it", backend)
			return &c
		case missing:
			return &Cause{
				Kind: KindRoute, Thing: routeText(w.r), What: fmt.Sprintf("leads to %s, which is on the link of %s: that route is gone", backend, d.Name),
				Remedy: fmt.Sprintf("ip route add %s dev %s", netip.PrefixFrom(backend, bits).Masked(), d.Name) + inTable(w.r),
			}
		case silent:
			return &Cause{
				Kind: KindRoute, Thing: routeText(w.r), What: fmt.Sprintf("leads to %s past %s, which has an address of its link; the way of the route does not answer", backend, d.Name),
				Remedy: routeDel(w.r),
			}
		}
	}
	return nil
}

// asksNobody reports that an interface does not ask for the hardware address of a neighbour, and has made
// up one.
func (x *walk) asksNobody(index int, neighbour netip.Addr) *Cause {
	d := x.device(index)
	n, err := x.neighbour(neighbour, index)
	if err != nil || n == nil || n.State&unix.NUD_NOARP == 0 || !d.asks() || d.Flags&unix.IFF_NOARP == 0 {
		return nil
	}
	return &Cause{
		Kind: KindLink, Thing: "interface " + d.Name + ": NOARP", What: fmt.Sprintf("it asks for no hardware address, and does not know the one of %s", neighbour),
		Remedy: "ip link set dev " + d.Name + " arp on",
	}
}

// cutOff names the port of a bridge that keeps it from a neighbour, if the other end of the port
// shows that the neighbour is there, or if all ports are so.
func (x *walk) cutOff(bridge int, neighbour netip.Addr) *Cause {
	if x.device(bridge).Kind != "bridge" {
		return nil
	}
	ports, err := x.facts.Ports(bridge)
	if err != nil {
		return nil
	}
	known := false
	if n, err := x.neighbour(neighbour, bridge); err == nil && n != nil && n.MAC != nil {
		f, err := x.facts.FDB(bridge, n.MAC)
		known = err != nil || f != nil
	}
	var idle []*host.Link
	for _, p := range ports {
		closed := closedPort(p, known)
		if p.Why() == "" && closed == "" {
			continue
		}
		if p.Why() != "" {
			idle = append(idle, p)
		}
		peer, err := x.facts.PeerOf(p)
		if err != nil || peer == nil {
			continue
		}
		a, err := peer.Address(neighbour)
		if errors.Join(err, peer.Close()) == nil && a != nil {
			if p.Why() == "" {
				return &Cause{
					Kind: KindBridge, Thing: fmt.Sprintf("bridge port %s of %s: %s", p.Name, x.name(bridge), closed),
					What: fmt.Sprintf("%s is behind it, and %s does not know that", neighbour, x.name(bridge)), Remedy: opened(p, closed),
				}
			}
			return x.idle(p)
		}
	}
	if len(idle) > 0 && len(idle) == len(ports) {
		return x.idle(idle[0])
	}
	return nil
}

// closedPort says in words of bridge(8) what keeps a port from neighbours that its bridge does not know;
// empty: nothing does, or it knows this one.
func closedPort(l *host.Link, known bool) string {
	switch p := l.Port; {
	case p == nil || known:
		return ""
	case p.Locked:
		return "locked on"
	case !p.Flood:
		return "flood off"
	case !p.FloodAll:
		return "bcast_flood off"
	}
	return ""
}

// opened is a command that turns round what closedPort has named.
func opened(l *host.Link, closed string) string {
	what, value, _ := strings.Cut(closed, " ")
	return fmt.Sprintf("bridge link set dev %s %s %s", l.Name, what, map[string]string{"on": "off", "off": "on"}[value])
}

func (x *walk) idle(p *host.Link) *Cause {
	d := x.device(p.Index)
	c := linkCause(d, d.Why())
	if d.Port != nil && d.Up() && d.Carrier {
		c = portCause(d, x.device(d.Master))
	}
	return &c
}

// unknownMAC reports whether a bridge does not know the hardware address of an entry.
func (x *walk) unknownMAC(w *way, n *host.Neighbour) bool {
	if x.device(w.out).Kind != "bridge" {
		return true
	}
	f, err := x.facts.FDB(w.out, n.MAC)
	return err == nil && f == nil
}

func (x *walk) wrongNeighbour(w *way, n *host.Neighbour) Cause {
	return Cause{
		Kind: KindNeighbour, Thing: "neighbour " + n.String(), What: "somebody has set this hardware address, and it is not the one of " + addr(n.Addr),
		Remedy: fmt.Sprintf("ip neigh del %s dev %s", n.Addr, x.name(w.out)),
	}
}
