// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/explain/internal/host"
)

// ingress takes a packet in by an interface, from the wire up: what is in the way of each
// interface, and then of the bridge that it is a port of.
func (x *walk) ingress(index int, neighbour netip.Addr) stage {
	return func(w *way) []*way {
		ds := x.layers(index, neighbour)
		top := ds[0]
		mac := x.macOf(neighbour, index)
		w.p.Out, w.p.PhysOut, w.p.PhysIn = eval.Interface{}, eval.Interface{}, eval.Interface{}
		ways := w.on()
		for i, d := range slices.Backward(ds) {
			var upper *device
			if i > 0 {
				upper = ds[i-1]
			}
			ways = run(ways, func(w *way) []*way {
				if w.switched { // it does not come up to the bridge itself
					return w.on()
				}
				return x.enter(w, d, upper, mac)
			})
		}
		return run(ways, func(w *way) []*way {
			w.p.In, w.p.PktType = top.asked, unix.PACKET_HOST
			if phys := ds[len(ds)-1]; phys != top && top.Kind == "bridge" && len(ds) > 1 {
				w.p.PhysIn = ds[1].asked
			}
			return w.on()
		})
	}
}

// macOf is the hardware address of a neighbour; nil: it is not known.
func (x *walk) macOf(neighbour netip.Addr, index int) []byte {
	if !neighbour.IsValid() {
		return nil
	}
	n, err := x.neighbour(neighbour, index)
	if err != nil || n == nil {
		return nil
	}
	return n.MAC
}

// enter takes a packet in by one interface.
func (x *walk) enter(w *way, d, upper *device, mac []byte) []*way {
	bridged := upper != nil && upper.Kind == "bridge"
	if bridged && d.Port != nil && d.Port.State != brForwarding && d.Carrier {
		return w.halt(portCause(d, upper))
	}
	if why := d.Why(); why != "" {
		return w.halt(linkCause(d, why))
	}
	for _, p := range d.XDP {
		w.maybe(Cause{
			Kind: KindXDP, Thing: fmt.Sprintf("XDP program %d (%s) of %s", p.Program, p.Mode, d.Name),
			What: "sees " + x.describe(w) + " first, and cannot be read", Remedy: "ip link set dev " + d.Name + " " + xdpOff(p.Mode),
		})
	}
	w.p.In, w.p.PhysIn = d.asked, eval.Interface{}
	w.p.DstMAC, w.p.SrcMAC, w.p.VLAN = d.MAC, mac, tag(upper)
	if bridged {
		w.p.DstMAC = upper.MAC
		if x.lostOwnAddress(upper) {
			return w.halt(Cause{
				Kind: KindBridge, Thing: fmt.Sprintf("bridge %s: no entry of its own address %s (bridge fdb show br %s)", upper.Name, net.HardwareAddr(upper.MAC), upper.Name),
				What: "it passes frames for the host to its ports, and not to the host", Remedy: fmt.Sprintf("bridge fdb add %s dev %s self local", net.HardwareAddr(upper.MAC), upper.Name),
			})
		}
	}
	if stopped := x.classify(w, d, false); stopped {
		return w.on()
	}
	ways := x.pass(w, eval.Ingress)
	if !bridged {
		return ways
	}
	ways = run(ways, x.hook(eval.BridgePrerouting))
	if w.p.EtherType != unix.ETH_P_ARP && x.bridgeCalls(upper, w.p.EtherType == unix.ETH_P_IP) {
		ways = run(ways, func(w *way) []*way {
			w.p.In, w.p.PhysIn = upper.asked, d.asked
			return x.prerouting(w)
		}, func(w *way) []*way {
			w.prerouted = true
			w.switched = !w.answer && x.bridged(w)
			w.p.In, w.p.PhysIn = d.asked, eval.Interface{}
			return w.on()
		})
	}
	return run(ways, func(w *way) []*way {
		if w.switched {
			return w.on()
		}
		return x.pass(w, eval.BridgeInput)
	})
}

// tag is the VLAN of packets below an interface.
func tag(upper *device) uint16 {
	if upper == nil || upper.Kind != "vlan" {
		return 0
	}
	return upper.VLAN
}

// lostOwnAddress reports whether a bridge has forgotten that frames to its own address are for the host.
func (x *walk) lostOwnAddress(bridge *device) bool {
	if bridge.Flags&unix.IFF_PROMISC != 0 || len(bridge.MAC) != 6 {
		return false
	}
	if bridge.takes == nil {
		f, err := x.facts.FDB(bridge.Index, bridge.MAC)
		takes := err != nil || f != nil
		bridge.takes = &takes
	}
	return !*bridge.takes
}

func xdpOff(mode string) string {
	switch mode {
	case "skb", "generic":
		return "xdpgeneric off"
	case "hardware":
		return "xdpoffload off"
	}
	return "xdp off"
}

// egress sends a packet out of an interface, down to the wire.
func (x *walk) egress(index int, neighbour netip.Addr) stage {
	return func(w *way) []*way {
		ds := x.layers(index, neighbour)
		ways := w.on()
		for i, d := range ds {
			var upper *device
			if i > 0 {
				upper = ds[i-1]
			}
			ways = run(ways, func(w *way) []*way { return x.leave(w, d, upper) })
		}
		return run(ways, func(w *way) []*way {
			w.p.In, w.p.PhysIn, w.p.Out, w.p.PhysOut = eval.Interface{}, eval.Interface{}, eval.Interface{}, eval.Interface{}
			w.p.DstMAC, w.p.SrcMAC, w.p.VLAN = nil, nil, 0
			return w.on()
		})
	}
}

// leave sends a packet out of one interface.
func (x *walk) leave(w *way, d, upper *device) []*way {
	bridged := upper != nil && upper.Kind == "bridge"
	if bridged && d.Port != nil && d.Port.State != brForwarding && d.Carrier {
		return w.halt(portCause(d, upper))
	}
	if why := d.Why(); why != "" {
		return w.halt(linkCause(d, why))
	}
	ways := w.on()
	if bridged {
		w.p.Out = d.asked
		in := w.p.In
		w.p.In = eval.Interface{}
		ways = run(ways, x.hook(eval.BridgeOutput), x.hook(eval.BridgePostrouting), func(w *way) []*way {
			w.p.In = in
			return w.on()
		})
	}
	return run(ways, func(w *way) []*way {
		w.p.Out, w.p.VLAN = d.asked, tag(upper)
		return x.pass(w, eval.Egress)
	}, func(w *way) []*way {
		if x.classify(w, d, true) {
			return w.on()
		}
		x.queues(w, d)
		return w.on()
	})
}

// brForwarding is BR_STATE_FORWARDING.
const brForwarding = 3

func portCause(d, bridge *device) Cause {
	states := []string{"disabled", "listening", "learning", "forwarding", "blocking"}
	state := fmt.Sprint(d.Port.State)
	if int(d.Port.State) < len(states) {
		state = states[d.Port.State]
	}
	return Cause{
		Kind: KindBridge, Thing: fmt.Sprintf("bridge port %s of %s: state %s", d.Name, bridge.Name, state),
		What: "a port in this state passes nothing", Remedy: "bridge link set dev " + d.Name + " state 3",
	}
}

func linkCause(d *device, why string) Cause {
	c := Cause{Kind: KindLink, Thing: "interface " + d.Name + ": " + why, What: "no packet passes it"}
	if !d.Up() {
		c.Remedy = "ip link set dev " + d.Name + " up"
	} else {
		c.Remedy = "bring up what is at the other end of " + d.Name
	}
	return c
}

// classify asks the filters of traffic control, and reports whether they stop the packet.
func (x *walk) classify(w *way, d *device, egress bool) bool {
	f, header := frame(&w.p), linkHeader
	if d.Type != unix.ARPHRD_ETHER && d.Type != unix.ARPHRD_LOOPBACK { // a tunnel, or a point-to-point link
		f, header = f[linkHeader:], 0
	}
	verdict, by, err := x.facts.Classify(d.Index, egress, f, header, w.p.EtherType)
	if err != nil {
		if !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrNotExist) {
			w.unread("filters of tc at "+d.Name, err)
		}
		return false
	}
	if verdict == host.TCPasses {
		return false
	}
	direction := "ingress"
	if egress {
		direction = "egress"
	}
	c := Cause{Kind: KindTC, Thing: "filters of tc at " + direction + " of " + d.Name, Remedy: "tc filter del dev " + d.Name + " " + direction}
	if by != nil {
		c.Thing = by.String()
		if by.Priority != 0 {
			c.Remedy += fmt.Sprintf(" pref %d", by.Priority)
		}
		if by.Kind == "tcx" {
			c.Remedy = "bpftool net detach tcx_" + direction + " dev " + d.Name
		}
	}
	switch verdict {
	case host.TCDrops:
		c.What = "drops " + x.describe(w)
	case host.TCRedirects:
		c.What = "sends " + x.describe(w) + " elsewhere"
	case host.TCPasses, host.TCUnknown:
		c.What = "may drop " + x.describe(w) + ", and cannot be read"
		w.maybe(c)
		return false
	}
	w.step(direction, "%s", c.Thing)
	w.halt(c)
	return true
}

// queues asks the queueing disciplines of an interface, and reports whether one stops the packet.
func (x *walk) queues(w *way, d *device) bool {
	qs, err := x.facts.Qdiscs(d.Index)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errors.ErrUnsupported) {
		w.unread("qdiscs of "+d.Name, err)
	}
	for _, q := range qs {
		some, all := q.Drops(frameLength)
		if !some && !all {
			continue
		}
		c := Cause{
			Kind: KindTC, Thing: q.String(), What: fmt.Sprintf("drops %s; it has dropped %d packets", x.describe(w), q.Dropped),
			Remedy: "tc qdisc del dev " + d.Name + " root",
		}
		if all && q.Parent == tcRoot {
			w.step("egress", "%s", c.Thing)
			w.halt(c)
			return true
		}
		c.What = "may drop " + strings.TrimPrefix(c.What, "drops ")
		w.maybe(c)
	}
	return false
}

const (
	linkHeader  = 14 // of Ethernet
	frameLength = 74 // of a SYN
	tcRoot      = 0xffffffff
)
