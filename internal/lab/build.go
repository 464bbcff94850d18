// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"net/netip"

	"github.com/vishvananda/netlink"
)

// subnet is the text of a prefix whose addresses differ in their last byte. The networks
// outside the host are blocks for documentation (RFC 5737, RFC 3849).
type subnet string

const (
	lan4    subnet = "192.0.2.0/24"
	lan6    subnet = "2001:db8:1::/64"
	inside4 subnet = "172.30.0.0/24"
	inside6 subnet = "fd00:30::/64"
	far4    subnet = "198.51.100.0/24"
	far6    subnet = "2001:db8:2::/64"
	other4  subnet = "172.31.0.0/24"
	other6  subnet = "fd00:31::/64"
)

func (s subnet) prefix() netip.Prefix { return netip.MustParsePrefix(string(s)) }

// at returns the address whose last byte is n.
func (s subnet) at(n byte) netip.Addr {
	b := s.prefix().Addr().AsSlice()
	b[len(b)-1] = n
	a, _ := netip.AddrFromSlice(b) // of one of the two lengths, like b
	return a
}

// host returns the same address with the length of the prefix.
func (s subnet) host(n byte) netip.Prefix { return netip.PrefixFrom(s.at(n), s.prefix().Bits()) }

// machine is a namespace with one interface, eth0.
type machine struct {
	name   string
	ns     **NS      // the field of the topology
	net    [2]subnet // IPv4 and IPv6 of eth0
	number byte      // last byte of its addresses; 1 is the host, its gateway
	part   Parts     // zero: always built
	routes [2]netip.Prefix
}

func (t *Topology) machines() []machine {
	lan, inside, far, other := [2]subnet{lan4, lan6}, [2]subnet{inside4, inside6}, [2]subnet{far4, far6}, [2]subnet{other4, other6}
	everything := [2]netip.Prefix{
		netip.PrefixFrom(netip.IPv4Unspecified(), 0),
		netip.PrefixFrom(netip.IPv6Unspecified(), 0),
	}
	return []machine{
		{name: "client", ns: &t.Client, net: lan, number: 2, routes: everything},
		{name: "backend1", ns: &t.Backend1, net: inside, number: 2, part: PartBackend1, routes: everything},
		{name: "backend2", ns: &t.Backend2, net: inside, number: 3, part: PartBackend2, routes: everything},
		{
			name: "neighbour", ns: &t.Neighbour, net: lan, number: 3, part: PartNeighbour,
			routes: [2]netip.Prefix{inside4.prefix(), inside6.prefix()},
		},
		{name: "far", ns: &t.Far, net: far, number: 2, part: PartFar, routes: everything},
		{name: "other", ns: &t.Other, net: other, number: 2, part: PartOther, routes: everything},
	}
}

// build makes the machines of t. On an error, those made so far are in t.
func build(t *Topology, o Options) error {
	var err error
	if t.Host, err = New("host"); err != nil {
		return err
	}
	t.Host.V4, t.Host.V6 = lan4.at(1), lan6.at(1)
	if o.Parts&PartNeighbour != 0 {
		if err := buildSwitch(t); err != nil {
			return err
		}
	}
	var built []machine
	for _, m := range t.machines() {
		if m.part&o.Parts == 0 && m.part != 0 {
			continue
		}
		if *m.ns, err = New(m.name); err != nil {
			return err
		}
		(*m.ns).V4, (*m.ns).V6 = m.net[0].at(m.number), m.net[1].at(m.number)
		built = append(built, m)
	}
	if err := buildHost(t, o); err != nil {
		return err
	}
	if t.Switch != nil {
		if err := plugLAN(t); err != nil {
			return err
		}
	}
	for _, m := range built {
		if err := buildMachine(m); err != nil {
			return err
		}
	}
	if err := setBridgeNF(t.Host, o.BridgeNF); err != nil {
		return err
	}
	if o.Forwarding {
		if err := t.SetForwarding(true); err != nil {
			return err
		}
	}
	return waitUp(t.Namespaces())
}

// buildSwitch makes the namespace that is the LAN's switch. Netfilter does not see its
// frames.
func buildSwitch(t *Topology) error {
	var err error
	if t.Switch, err = New("switch"); err != nil {
		return err
	}
	if err := setBridgeNF(t.Switch, false); err != nil {
		return err
	}
	return withHandle(t.Switch, func(h *netlink.Handle) error { return addBridge(h, switchBridge) })
}

// plugLAN connects client, neighbour and host to the switch.
func plugLAN(t *Topology) error {
	return withHandle(t.Switch, func(h *netlink.Handle) error {
		for _, end := range []struct {
			port string
			ns   *NS
			peer string
		}{
			{"client", t.Client, MachineLink},
			{"neighbour", t.Neighbour, MachineLink},
			{"host", t.Host, HostLAN},
		} {
			if err := addVeth(h, end.port, end.ns, end.peer); err != nil {
				return err
			}
			if err := addPort(h, switchBridge, end.port, false); err != nil {
				return err
			}
		}
		// This end of the host's did not exist before.
		return withHandle(t.Host, func(h *netlink.Handle) error {
			return configureLink(h, HostLAN, hostLANAddrs()...)
		})
	})
}

func hostLANAddrs() []netip.Prefix {
	return []netip.Prefix{lan4.host(1), lan4.host(9), lan6.host(1), lan6.host(9)}
}

// buildHost makes the host's interfaces, except the one to the switch, and their other
// ends in the machines.
func buildHost(t *Topology, o Options) error {
	return withHandle(t.Host, func(h *netlink.Handle) error {
		if err := addBridge(h, HostBridge, inside4.host(1), inside6.host(1)); err != nil {
			return err
		}
		if t.Other != nil {
			if err := addBridge(h, OtherBridge, other4.host(1), other6.host(1)); err != nil {
				return err
			}
		}
		for _, end := range []struct {
			bridge, port string
			machine      *NS
		}{{HostBridge, HostPort1, t.Backend1}, {HostBridge, HostPort2, t.Backend2}, {OtherBridge, OtherPort, t.Other}} {
			if end.machine == nil {
				continue
			}
			if err := addVeth(h, end.port, end.machine, MachineLink); err != nil {
				return err
			}
			if err := addPort(h, end.bridge, end.port, o.Hairpin); err != nil {
				return err
			}
		}
		if t.Far != nil {
			if err := addVeth(h, HostFar, t.Far, MachineLink); err != nil {
				return err
			}
			if err := configureLink(h, HostFar, far4.host(1), far6.host(1)); err != nil {
				return err
			}
		}
		if t.Switch != nil {
			return nil
		}
		if err := addVeth(h, HostLAN, t.Client, MachineLink); err != nil {
			return err
		}
		return configureLink(h, HostLAN, hostLANAddrs()...)
	})
}

// buildMachine adds the addresses and routes of a machine's interface.
func buildMachine(m machine) error {
	return withHandle(*m.ns, func(h *netlink.Handle) error {
		if err := configureLink(h, MachineLink, m.net[0].host(m.number), m.net[1].host(m.number)); err != nil {
			return err
		}
		for i, to := range m.routes {
			if err := addRoute(h, to, m.net[i].at(1)); err != nil {
				return err
			}
		}
		return nil
	})
}
