// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// upTime bounds the wait for links and addresses to come up.
const upTime = 30 * time.Second

// waitUp waits until every interface of the namespaces carries packets and every address
// answers. The kernel does both in work queues, some time later. If the first ARP request
// or neighbour solicitation is lost, the next one comes after a second (RFC 4861, section
// 10, RETRANS_TIMER).
func waitUp(namespaces []*NS) error {
	end := time.Now().Add(upTime)
	for _, n := range namespaces {
		if err := withHandle(n, func(h *netlink.Handle) error { return waitLinks(h, end) }); err != nil {
			return err
		}
	}
	// All links are up, so all link-local addresses are there.
	for _, n := range namespaces {
		if err := n.waitGroups(end); err != nil {
			return fmt.Errorf("set up %s: %w", n.name, err)
		}
	}
	return nil
}

// WaitUp waits until every interface of the namespace carries packets and each of its addresses can be used, as
// [Build] does for all. It is for a test that adds interfaces: when one is set up, its link-local address and the
// routes of IPv6 come only later, and until then connect(2) fails at once.
func (n *NS) WaitUp() error { return waitUp([]*NS{n}) }

// until calls done, with growing pauses, until it returns true or an error.
func until(end time.Time, what string, done func() (bool, error)) error {
	for pause := 50 * time.Microsecond; ; pause = min(2*pause, 20*time.Millisecond) {
		ok, err := done()
		switch {
		case ok || err != nil:
			return err
		case time.Now().After(end):
			return fmt.Errorf("wait for %s: %w", what, os.ErrDeadlineExceeded)
		}
		time.Sleep(pause)
	}
}

// waitLinks waits for the links. It is not enough that both ends of a wire are up: queueing
// disciplines, bridges and IPv6 in the kernel learn that later (net/core/link_watch.c).
// Since Linux 6.7, reading a link by its name makes that happen at once.
func waitLinks(h *netlink.Handle, end time.Time) error {
	links, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, name := range plugged(links) {
		err := until(end, name+" to come up", func() (bool, error) {
			link, err := h.LinkByName(name)
			return err == nil && link.Attrs().OperState == netlink.OperUp, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// plugged returns the names of veth interfaces, and then those of bridges with ports: a
// bridge is up when one of its ports is.
func plugged(links []netlink.Link) (names []string) {
	masters := make(map[int]bool)
	for _, l := range links {
		masters[l.Attrs().MasterIndex] = true
		if l.Type() == "veth" {
			names = append(names, l.Attrs().Name)
		}
	}
	for _, l := range links {
		if l.Type() == "bridge" && masters[l.Attrs().Index] {
			names = append(names, l.Attrs().Name)
		}
	}
	return names
}

// waitGroups waits until the namespace listens for solicitations of each of its IPv6
// addresses. The kernel joins these groups where it would detect duplicates, even if
// detection is off (net/ipv6/addrconf.c,
// addrconf_dad_begin).
func (n *NS) waitGroups(end time.Time) error {
	return n.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		addrs, err := h.AddrList(nil, unix.AF_INET6)
		if err != nil {
			return fmt.Errorf("list addresses: %w", err)
		}
		return until(end, "IPv6 addresses", func() (bool, error) {
			groups, err := os.ReadFile("/proc/thread-self/net/igmp6")
			return err == nil && joined(string(groups), addrs), err
		})
	})
}

// joined reports whether the groups of all addresses are in the text of
// /proc/net/igmp6: one a line, interface index, name, group in hexadecimal.
func joined(groups string, addrs []netlink.Addr) bool {
	in := make(map[string]bool)
	for line := range strings.Lines(groups) {
		if f := strings.Fields(line); len(f) > 2 {
			in[f[0]+" "+f[2]] = true
		}
	}
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		if ok && !ip.IsLoopback() && !in[fmt.Sprintf("%d %x", a.LinkIndex, solicited(ip))] {
			return false
		}
	}
	return true
}

// solicited returns the solicited-node group of an IPv6 address: its last 24
// bits behind ff02::1:ff00:0 (RFC 4291, section 2.7.1).
func solicited(ip netip.Addr) []byte {
	a := ip.As16()
	group := [16]byte{0: 0xff, 1: 0x02, 11: 0x01, 12: 0xff}
	copy(group[13:], a[13:])
	return group[:]
}
