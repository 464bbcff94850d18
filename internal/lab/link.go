// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// withHandle calls fn with a netlink socket inside n, and names n in its error.
func withHandle(n *NS, fn func(*netlink.Handle) error) error {
	h, err := n.Handle()
	if err != nil {
		return err
	}
	defer h.Close()
	if err := fn(h); err != nil {
		return fmt.Errorf("set up %s: %w", n.name, err)
	}
	return nil
}

// addBridge makes a bridge, up, with addresses.
func addBridge(h *netlink.Handle, name string, addrs ...netip.Prefix) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	// Otherwise the bridge has the lowest address of its ports, which changes when a port
	// is added, while neighbours have the old one in their tables.
	attrs.HardwareAddr = hardwareAddr(name)
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("add bridge %s: %w", name, err)
	}
	return configureLink(h, name, addrs...)
}

// hardwareAddr makes a locally administered unicast address (IEEE 802, the
// second bit of the first byte) out of a name.
func hardwareAddr(name string) net.HardwareAddr {
	sum := crc32.ChecksumIEEE([]byte(name))
	return net.HardwareAddr{2, 0, byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)}
}

// addVeth makes a pair of interfaces, one in the namespace of h and one in peer.
func addVeth(h *netlink.Handle, name string, peer *NS, peerName string) error {
	rc, err := peer.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("add veth %s: %w", name, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	var add error
	err = rc.Control(func(fd uintptr) {
		add = h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peerName, PeerNamespace: netlink.NsFd(fd)})
	})
	if err = errors.Join(err, add); err != nil {
		return fmt.Errorf("add veth %s to %s: %w", name, peer.name, err)
	}
	return nil
}

// addPort makes an interface a port of a bridge, and sets it up.
func addPort(h *netlink.Handle, bridge, port string, hairpin bool) error {
	br, err := h.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find %s: %w", bridge, err)
	}
	link, err := h.LinkByName(port)
	if err != nil {
		return fmt.Errorf("find %s: %w", port, err)
	}
	if err := h.LinkSetMaster(link, br); err != nil {
		return fmt.Errorf("add port %s to %s: %w", port, bridge, err)
	}
	if hairpin {
		if err := h.LinkSetHairpin(link, true); err != nil {
			return fmt.Errorf("set hairpin mode of %s: %w", port, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", port, err)
	}
	return nil
}

// configureLink gives an interface addresses, and sets it up.
func configureLink(h *netlink.Handle, name string, addrs ...netip.Prefix) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	for _, a := range addrs {
		addr := &netlink.Addr{IPNet: ipNet(a)}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add address %s to %s: %w", a, name, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// addRoute adds a route by a gateway that is on the link.
func addRoute(h *netlink.Handle, to netip.Prefix, via netip.Addr) error {
	if err := h.RouteAdd(&netlink.Route{Dst: ipNet(to), Gw: via.AsSlice()}); err != nil {
		return fmt.Errorf("add route %s via %s: %w", to, via, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
