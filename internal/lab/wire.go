// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// An End is one of the two ends of a wire: an interface of a namespace.
type End struct {
	NS    *NS
	Link  string         // the interface's name, new in its namespace
	MTU   int            // in bytes; zero is 1500, the least for IPv6 is 1280
	Addrs []netip.Prefix // its addresses, with the length of the wire's prefix
}

// Wire connects two namespaces by a wire in addition to those of [Build], for networks
// that are farther away or have a smaller MTU. When it returns, both ends answer.
func Wire(a, b End) error {
	err := withHandle(a.NS, func(h *netlink.Handle) error { return addVeth(h, a.Link, b.NS, b.Link) })
	if err != nil {
		return err
	}
	for _, end := range []End{a, b} {
		err := withHandle(end.NS, func(h *netlink.Handle) error {
			if err := setMTU(h, end.Link, end.MTU); err != nil {
				return err
			}
			return configureLink(h, end.Link, end.Addrs...)
		})
		if err != nil {
			return err
		}
	}
	return waitUp([]*NS{a.NS, b.NS})
}

// setMTU does nothing if mtu is zero.
func setMTU(h *netlink.Handle, name string, mtu int) error {
	if mtu == 0 {
		return nil
	}
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := h.LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("set MTU %d of %s: %w", mtu, name, err)
	}
	return nil
}
