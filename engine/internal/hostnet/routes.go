// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Routes is the routing table of the kernel.
type Routes struct {
	handle *netlink.Handle
	socket *nlwire.Socket
	// lists is for lists of which only a part may be read: it is closed then. Nil: it was.
	lists *nlwire.Socket
	seq   uint32
	buf   []byte
}

// Route is the route to an address.
type Route struct {
	Kind RouteKind
	// Link is the name of the interface that leads there. Empty: it is not known.
	Link string
	// More are the names of further ones, if the route has several next hops.
	More []string
	// Bridge is the index of that interface if it is a bridge and the address is on link,
	// else zero.
	Bridge int
}

// Equal reports whether two routes lead the same way.
func (r Route) Equal(o Route) bool {
	return r.Kind == o.Kind && r.Link == o.Link && r.Bridge == o.Bridge && slices.Equal(r.More, o.More)
}

// RouteKind is what happens to a packet to an address.
type RouteKind int

// The kinds of routes.
const (
	Unreachable RouteKind = iota
	Unicast
	Local     // an address of this host
	Broadcast // of a segment
	Other     // multicast, anycast, prohibited and more
)

// String returns the kind in words: "local".
func (k RouteKind) String() string {
	names := [...]string{
		Unreachable: "unreachable", Unicast: "unicast", Local: "local", Broadcast: "broadcast", Other: "other",
	}
	if k < 0 || int(k) >= len(names) {
		return "invalid"
	}
	return names[k]
}

// OpenRoutes opens the routing table of a namespace.
func OpenRoutes(ns *Namespace) (*Routes, error) {
	h, err := netlink.NewHandleAt(ns.Handle(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open routing table: %w", err)
	}
	r := &Routes{handle: h, buf: make([]byte, nlwire.LargestDatagram)}
	if r.socket, err = dialStrict(ns); err == nil {
		r.lists, err = dialStrict(ns)
	}
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("open routing table: %w", err)
	}
	return r, nil
}

// dialStrict opens a socket that has the kernel heed which routes are asked for in a list
// (NETLINK_GET_STRICT_CHK), and not send all those of the Internet.
func dialStrict(ns *Namespace) (*nlwire.Socket, error) {
	s, err := nlwire.Dial(nlwire.Config{Protocol: unix.NETLINK_ROUTE, NetNS: ns.FD()})
	if err != nil {
		return nil, err
	}
	err = s.Control(func(fd int) error {
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1))
	})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close closes the sockets.
func (r *Routes) Close() {
	r.handle.Close()
	for _, s := range []*nlwire.Socket{r.socket, r.lists} {
		if s != nil {
			_ = s.Close() // nothing is written
		}
	}
}

// isDirect reports whether a route needs no gateway.
func isDirect(r netlink.Route) bool {
	return len(r.Gw) == 0 && r.Via == nil && len(r.MultiPath) == 0
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), ok
}

// dumpAttempts bounds how often a list is read again because it has changed meanwhile.
const dumpAttempts = 10

// dump reads a list of the kernel until it has not changed while it was read.
func dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range dumpAttempts {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// Interfaces lists the interfaces of the namespace.
func (r *Routes) Interfaces() ([]Interface, error) {
	links, err := dump(r.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return r.handle.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	is := make([]Interface, len(links))
	at := make(map[int]int, len(links)) // by the index of the link
	for n, l := range links {
		attrs := l.Attrs()
		is[n] = Interface{Name: attrs.Name, Loopback: attrs.Flags&net.FlagLoopback != 0, Dummy: l.Type() == "dummy"}
		is[n].Port = attrs.MasterIndex != 0 && (attrs.Slave == nil || attrs.Slave.SlaveType() != "vrf")
		at[attrs.Index] = n
	}
	for _, a := range addrs {
		n, ok := at[a.LinkIndex]
		if ip, valid := netip.AddrFromSlice(a.IP); ok && valid {
			is[n].Addrs = append(is[n].Addrs, ip.Unmap())
		}
	}
	return is, nil
}

// Addresses returns the global addresses of a family that this host has, except on loopback:
// those of the interface of the default route first.
func (r *Routes) Addresses(six bool) ([]netip.Addr, error) {
	family := netlink.FAMILY_V4
	if six {
		family = netlink.FAMILY_V6
	}
	list, err := r.handle.AddrList(nil, family)
	if isFatal(err) {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	routes, err := r.handle.RouteList(nil, family)
	if isFatal(err) {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	uplinks := map[int]bool{}
	for _, route := range routes {
		if dst, ok := prefixOf(route.Dst); !ok || dst.Bits() == 0 {
			uplinks[route.LinkIndex] = true
		}
	}
	var first, others []netip.Addr
	for _, a := range list {
		p, ok := prefixOf(a.IPNet)
		switch {
		case !ok || a.Scope != unix.RT_SCOPE_UNIVERSE || p.Addr().IsLoopback():
		case uplinks[a.LinkIndex]:
			first = append(first, p.Addr())
		default:
			others = append(others, p.Addr())
		}
	}
	return append(first, others...), nil
}

// linkName is for messages: an interface that was deleted meanwhile has a number.
func (r *Routes) linkName(index int) string {
	link, err := r.handle.LinkByIndex(index)
	if err != nil {
		return fmt.Sprintf("interface %d", index)
	}
	return link.Attrs().Name
}
