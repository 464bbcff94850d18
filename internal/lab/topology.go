// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
)

// Parts names what a topology has besides the client and the host, as a sum
// of the constants below.
type Parts uint8

// The parts of a topology. A neighbour brings the switch with it.
const (
	PartBackend1 Parts = 1 << iota
	PartBackend2
	PartNeighbour
	PartFar
	// PartOther is a second bridge with a machine behind it, for tests of two networks. It
	// is not in PartAll.
	PartOther

	// PartAll is all but PartOther.
	PartAll = PartBackend1 | PartBackend2 | PartNeighbour | PartFar
)

// String returns the parts: "backend1,far". None is "none".
func (p Parts) String() string {
	var words []string
	for i, word := range []string{"backend1", "backend2", "neighbour", "far", "other"} {
		if p&(1<<i) != 0 {
			words = append(words, word)
		}
	}
	if words == nil {
		return "none"
	}
	return strings.Join(words, ",")
}

// Options says what [Build] builds. The zero value is PartAll with the kernel's defaults:
// the host does not forward.
type Options struct {
	// Parts is what to build. Zero means [PartAll]; client and host are always
	// there.
	Parts Parts

	// Forwarding turns on IPv4 and IPv6 forwarding in the host. False leaves it off, so
	// that the test has to turn it on.
	Forwarding bool

	// BridgeNF sends bridged frames of the host through netfilter's IP hooks
	// (net.bridge.bridge-nf-call-iptables and -ip6tables). False turns that off. True on a kernel without br_netfilter is an error
	// (errors.ErrUnsupported).
	BridgeNF bool

	// Hairpin lets the host's bridge send a frame out of the port by which it came in.
	// False is the kernel's default.
	Hairpin bool
}

// The names of interfaces.
const (
	HostLAN     = "lan0"  // towards client and neighbour
	HostFar     = "far0"  // towards the far server
	HostBridge  = "br0"   // the backends' gateway
	HostPort1   = "port1" // br0's port to backend 1
	HostPort2   = "port2" // br0's port to backend 2
	OtherBridge = "br1"   // the other machine's gateway
	OtherPort   = "port3" // br1's port to the other machine
	MachineLink = "eth0"  // of every other machine

	switchBridge = "sw0"
)

// Topology is a small network of namespaces around a host that publishes
// ports. Parts that were not built are nil. Do not change its fields.
//
//	client 192.0.2.2 ──┐                      ┌── backend1 172.30.0.2
//	                   switch ─── HOST ─── br0 ┤
//	neighbour 192.0.2.3┘  192.0.2.1 │ 172.30.0.1└── backend2 172.30.0.3
//	                      192.0.2.9 ├── br1 ─── other 172.31.0.2
//	                                │ 172.31.0.1
//	                                └── far 198.51.100.2
//
// The same in IPv6: 2001:db8:1::/64 is the LAN, fd00:30::/64 the inside,
// fd00:31::/64 behind br1, 2001:db8:2::/64 the far network, with the same last
// numbers.
//
// Client, backends, other and far have a default route by the host. The neighbour has only
// a route to the inside, as an attacker on the LAN would.
type Topology struct {
	Client    *NS // 192.0.2.2, 2001:db8:1::2
	Host      *NS // the machine under test; V4, V6 are 192.0.2.1, 2001:db8:1::1
	Backend1  *NS // 172.30.0.2, fd00:30::2
	Backend2  *NS // 172.30.0.3, fd00:30::3
	Neighbour *NS // 192.0.2.3, 2001:db8:1::3
	Far       *NS // 198.51.100.2, 2001:db8:2::2
	Switch    *NS // joins client, neighbour and host; has no address
	Other     *NS // 172.31.0.2, fd00:31::2

	Second4, Second6   netip.Addr // the host's other LAN addresses, 192.0.2.9 and 2001:db8:1::9
	Gateway4, Gateway6 netip.Addr // br0's addresses, 172.30.0.1 and fd00:30::1

	OtherGateway4, OtherGateway6 netip.Addr // br1's addresses, 172.31.0.1 and fd00:31::1

	LAN4, LAN6           netip.Prefix // 192.0.2.0/24, 2001:db8:1::/64
	Inside4, Inside6     netip.Prefix // 172.30.0.0/24, fd00:30::/64
	FarNet4, FarNet6     netip.Prefix // 198.51.100.0/24, 2001:db8:2::/64
	OtherNet4, OtherNet6 netip.Prefix // 172.31.0.0/24, fd00:31::/64
}

// Build makes a topology. When it returns, every address answers.
// It needs CAP_SYS_ADMIN and CAP_NET_ADMIN (fs.ErrPermission without), and the
// bridge and veth drivers.
func Build(o Options) (*Topology, error) {
	if o.Parts == 0 {
		o.Parts = PartAll
	}
	t := &Topology{
		Second4: lan4.at(9), Second6: lan6.at(9),
		Gateway4: inside4.at(1), Gateway6: inside6.at(1),
		LAN4: lan4.prefix(), LAN6: lan6.prefix(),
		Inside4: inside4.prefix(), Inside6: inside6.prefix(),
		FarNet4: far4.prefix(), FarNet6: far6.prefix(),
		OtherGateway4: other4.at(1), OtherGateway6: other6.at(1),
		OtherNet4: other4.prefix(), OtherNet6: other6.prefix(),
	}
	if err := build(t, o); err != nil {
		return nil, fmt.Errorf("build topology: %w", errors.Join(err, t.Close()))
	}
	return t, nil
}

// Namespaces returns those of the topology that were built, client and host
// first.
func (t *Topology) Namespaces() []*NS {
	var built []*NS
	for _, n := range []*NS{t.Client, t.Host, t.Backend1, t.Backend2, t.Neighbour, t.Far, t.Switch, t.Other} {
		if n != nil {
			built = append(built, n)
		}
	}
	return built
}

// Close closes every namespace. It does not stop servers and connections in them. A second
// Close does nothing.
func (t *Topology) Close() error {
	var errs []error
	for _, n := range t.Namespaces() {
		errs = append(errs, n.Close())
	}
	return errors.Join(errs...)
}

// SetBridgeNF changes the setting of [Options].BridgeNF.
func (t *Topology) SetBridgeNF(on bool) error { return setBridgeNF(t.Host, on) }

// SetForwarding changes the setting of [Options].Forwarding.
func (t *Topology) SetForwarding(on bool) error {
	return errors.Join(
		t.Host.Sysctl("net.ipv4.ip_forward", digit(on)),
		t.Host.Sysctl("net.ipv6.conf.all.forwarding", digit(on)),
	)
}

// RouteLoopback turns a machine into an attacker: it routes 127.0.0.0/8 and ::1 to the
// host, as any machine on a LAN can, and accepts the answers. It loses its own loopback
// addresses.
func (t *Topology) RouteLoopback(attacker *NS) error {
	if err := attacker.Sysctl("net.ipv4.conf.all.route_localnet", "1"); err != nil {
		return err
	}
	return withHandle(attacker, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("::1/128")}
		gateways := t.gateways(attacker)
		for i, p := range loopback {
			if err := h.AddrDel(lo, &netlink.Addr{IPNet: ipNet(p)}); err != nil {
				return fmt.Errorf("remove %s: %w", p, err)
			}
			if err := addRoute(h, p.Masked(), gateways[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// gateways are the host's addresses on a machine's own network.
func (t *Topology) gateways(n *NS) [2]netip.Addr {
	switch n {
	case t.Backend1, t.Backend2:
		return [2]netip.Addr{t.Gateway4, t.Gateway6}
	case t.Other:
		return [2]netip.Addr{t.OtherGateway4, t.OtherGateway6}
	case t.Far:
		return [2]netip.Addr{far4.at(1), far6.at(1)}
	}
	return [2]netip.Addr{t.Host.V4, t.Host.V6}
}

// setBridgeNF sets whether bridged frames pass the IP hooks in n.
func setBridgeNF(n *NS, on bool) error {
	for _, key := range []string{"net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"} {
		err := n.Sysctl(key, digit(on))
		switch {
		case err == nil:
		case !errors.Is(err, fs.ErrNotExist):
			return err
		case on:
			return fmt.Errorf("%w: %w (is br_netfilter loaded?)", errors.ErrUnsupported, err)
		default:
			return nil // without br_netfilter it is always off
		}
	}
	return nil
}

func digit(on bool) string {
	if on {
		return "1"
	}
	return "0"
}
