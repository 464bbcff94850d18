// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// probe tests one thing with real packets, and returns nil if it is right. It waits for an
// answer at most for the given time.
type probe func(wait time.Duration) error

// The ports of a prober's host.
const (
	portOfAny      = 8080 // published for any address of a family
	portOfOne      = 8081 // published for the host's LAN address
	portOfHost     = 8085 // published, and a service of the host's own
	portOfLoopback = 9090 // published for loopback addresses
)

// constants that netip cannot make.
var (
	loopback4 = mustAddr("127.0.0.1")
	loopback6 = mustAddr("::1")
	anybody   = netip.Addr{} // any peer that a server sees
)

func mustAddr(s string) netip.Addr { return netip.MustParseAddr(s) }

// prober is a topology in which everything for the probes is published and served. The
// engine that published it is closed.
type prober struct {
	top *lab.Topology
	t   *testing.T
	// arrivals receives the datagrams for a socket of backend 1 that never answers.
	arrivals net.PacketConn
}

func newProber(t *testing.T, top *lab.Topology) *prober {
	t.Helper()
	p := &prober{top: top, t: t}
	e := open(t, top.Host, engine.Options{})
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend1", ":80")
		labtest.Echo(t, top.Far, network, "far", ":"+strconv.Itoa(portOfAny))
		labtest.Echo(t, top.Host, network, "host", at(loopback4, portOfAny))
		labtest.Echo(t, top.Host, network, "host", at(loopback6, portOfAny))
		labtest.Echo(t, top.Host, network, "host", ":"+strconv.Itoa(portOfHost))
		for _, f := range families(top) {
			to := "->" + at(f.backend1, 80) + suffix(network)
			publish(t, e,
				toward(f.wildcard, portOfAny, portOfAny)+to, toward(f.host, portOfOne, portOfOne)+to,
				toward(f.wildcard, portOfHost, portOfHost)+to,
			)
		}
	}
	publish(t, e, at(loopback4, portOfLoopback)+"->"+at(top.Backend1.V4, 80),
		at(loopback6, portOfLoopback)+"->"+at(top.Backend1.V6, 81)+"/udp")
	require.NoError(t, e.Close())

	var err error
	p.arrivals, err = top.Backend1.ListenPacket("udp", at(top.Backend1.V6, 81))
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.arrivals.Close() })
	require.NoError(t, top.RouteLoopback(top.Neighbour))
	require.NoError(t, routeLoopback6(top))
	return p
}

// routeLoopback6 makes backend 2 route ::1 to the host.
func routeLoopback6(top *lab.Topology) error {
	h, err := top.Backend2.Handle()
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	one := &net.IPNet{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)}
	return errors.Join(
		h.AddrDel(lo, &netlink.Addr{IPNet: one}),
		h.RouteAdd(&netlink.Route{Dst: one, Gw: top.Gateway6.AsSlice()}),
	)
}

// run deletes all flows and runs a probe: most rules apply to the first packet of a flow
// only.
func (p *prober) run(try probe, wait time.Duration) error {
	p.t.Helper()
	labtest.Exec(p.t, p.top.Host, "conntrack", "-F")
	return try(wait)
}

// reaches expects an answer of a server, which must see a given peer.
func reaches(ns *lab.NS, network, addr, name string, peer netip.Addr) probe {
	return func(wait time.Duration) error {
		got, saw, err := askWithin(ns, network, addr, netip.AddrPort{}, wait)
		switch {
		case err != nil:
			return err
		case got != name:
			return fmt.Errorf("%s asked %s %s: %s answered, not %s", ns, network, addr, got, name)
		case peer.IsValid() && saw.Addr() != peer:
			return fmt.Errorf("%s asked %s %s: %s saw %s, not %s", ns, network, addr, name, saw.Addr(), peer)
		}
		return nil
	}
}

// reachesFrom is reaches for a client that is bound to an address, which the server sees.
func reachesFrom(ns *lab.NS, from netip.Addr, network, addr, name string) probe {
	return func(wait time.Duration) error {
		got, saw, err := askWithin(ns, network, addr, netip.AddrPortFrom(from, 0), wait)
		if err == nil && (got != name || saw.Addr() != from) {
			err = fmt.Errorf("%s asked %s %s from %s: %s answered, and saw %s", ns, network, addr, from, got, saw.Addr())
		}
		return err
	}
}

// silent expects no answer.
func silent(ns *lab.NS, network, addr string) probe {
	return func(time.Duration) error {
		name, peer, err := askWithin(ns, network, addr, netip.AddrPort{}, silence)
		if err == nil {
			return fmt.Errorf("%s asked %s %s: %s answered (to %s)", ns, network, addr, name, peer)
		}
		return nil
	}
}

// otherPort connects from a port that the server must not see.
func otherPort(ns *lab.NS, network, addr string, from netip.Addr) probe {
	return func(wait time.Duration) error {
		const port = 20000
		_, saw, err := askWithin(ns, network, addr, netip.AddrPortFrom(from, port), wait)
		if err == nil && saw.Port() == port {
			err = fmt.Errorf("%s asked %s %s: its own port %d was seen", ns, network, addr, port)
		}
		return err
	}
}

// highPort connects from a port below 512, which without a range would be masqueraded to one
// below 512.
func highPort(ns *lab.NS, network, addr string, from netip.Addr) probe {
	return func(wait time.Duration) error {
		_, saw, err := askWithin(ns, network, addr, netip.AddrPortFrom(from, 500), wait)
		if err == nil && !masqueradePort(saw.Port()) {
			err = fmt.Errorf("%s asked %s %s: port %d was seen", ns, network, addr, saw.Port())
		}
		return err
	}
}

// masqueradePort reports whether masqueraded flows may have the port.
func masqueradePort(port uint16) bool { return port >= 32768 && port <= 49152 }

// linkLocal connects from the client's link-local address.
func (p *prober) linkLocal(network, addr, name string) probe {
	return func(wait time.Duration) error {
		from, err := linkLocalAddr(p.top.Client)
		if err != nil {
			return err
		}
		got, _, err := askWithin(p.top.Client, network, addr, netip.AddrPortFrom(from, 0), wait)
		if err == nil && got != name {
			err = fmt.Errorf("%s asked from %s: %s answered, not %s", p.top.Client, from, got, name)
		}
		return err
	}
}

func linkLocalAddr(ns *lab.NS) (netip.Addr, error) {
	h, err := ns.Handle()
	if err != nil {
		return netip.Addr{}, err
	}
	defer h.Close()
	link, err := h.LinkByName(lab.MachineLink)
	if err != nil {
		return netip.Addr{}, err
	}
	addrs, err := h.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.IsLinkLocalUnicast() {
			return ip.WithZone(strconv.Itoa(link.Attrs().Index)), nil
		}
	}
	return netip.Addr{}, errors.New("no link-local address")
}

// reachesNotByLoopback6 sends from backend 2 to [::1] by way of the host, and checks that
// backend 1 receives nothing. Backend 2 could not receive an answer.
func (p *prober) reachesNotByLoopback6() probe {
	return func(time.Duration) error {
		ctx, cancel := context.WithTimeout(context.Background(), silence)
		defer cancel()
		c, err := p.top.Backend2.DialFrom(ctx, "udp", at(loopback6, portOfLoopback), netip.AddrPortFrom(p.top.Backend2.V6, 0))
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if _, err := c.Write([]byte("hello\n")); err != nil {
			return err
		}
		if err := p.arrivals.SetReadDeadline(time.Now().Add(silence)); err != nil {
			return err
		}
		_, peer, err := p.arrivals.ReadFrom(make([]byte, 16))
		if err == nil {
			return fmt.Errorf("backend1 was reached by [::1], from %s", peer)
		}
		return nil
	}
}

func askWithin(ns *lab.NS, network, addr string, from netip.AddrPort, wait time.Duration) (string, netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	return lab.Ask(ctx, ns, network, addr, from)
}
