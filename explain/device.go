// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/explain/internal/host"
)

// device is an interface, with its addresses.
type device struct {
	*host.Link
	addrs []*host.Address
	asked eval.Interface // as rules ask for it
	// takes is whether a bridge takes frames to its own address; nil: it was not asked.
	takes *bool
}

// device returns an interface. One that is not there, or cannot be read, has a number for a
// name.
func (x *Snapshot) device(index int) *device {
	if d := x.devices[index]; d != nil {
		return d
	}
	d := &device{}
	l, err := x.facts.Link(index)
	if err == nil {
		d.addrs, err = x.facts.AddressesOf(index)
	}
	if l == nil {
		l = &host.Link{Index: index, Name: fmt.Sprintf("interface %d", index)}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		x.failed("interface "+l.Name, err)
	}
	d.Link = l
	d.asked = eval.Interface{Index: index, Name: l.Name, Type: l.Type, Kind: l.Kind, Group: l.Group}
	for _, a := range d.addrs {
		d.asked.Addresses = append(d.asked.Addresses, a.Prefix)
	}
	x.devices[index] = d
	return d
}

func (x *Snapshot) name(index int) string { return x.device(index).Name }

// loopback reports whether it is lo.
func (d *device) loopback() bool { return d.Flags&unix.IFF_LOOPBACK != 0 }

// asks reports whether neighbours on it are asked for.
func (d *device) asks() bool {
	if d.Flags&unix.IFF_LOOPBACK != 0 {
		return false
	}
	return d.Type == unix.ARPHRD_ETHER && d.Flags&unix.IFF_POINTOPOINT == 0
}

// onLink reports whether an address is in a prefix of the interface.
func (d *device) onLink(a netip.Addr) bool {
	for _, o := range d.addrs {
		if o.Prefix.Bits() < a.BitLen() && o.Prefix.Contains(a.WithZone("")) {
			return true
		}
	}
	return false
}

// linkBits is the length of the longest prefix of the interface that an address is in; -1: it is in
// none.
func (d *device) linkBits(a netip.Addr) int {
	bits := -1
	for _, o := range d.addrs {
		if o.Prefix.Bits() < a.BitLen() && o.Prefix.Contains(a.WithZone("")) {
			bits = max(bits, o.Prefix.Bits())
		}
	}
	return bits
}

// has reports whether an address is one of the interface's.
func (d *device) has(a netip.Addr) bool {
	for _, o := range d.addrs {
		if o.Prefix.Addr() == a.WithZone("") {
			return true
		}
	}
	return false
}

// layers returns an interface and those below it that its packets pass, down to the wire. Of
// several below one, that is taken by which a neighbour was last seen, or else the first that
// has a carrier.
func (x *walk) layers(index int, neighbour netip.Addr) []*device {
	return known(x.stacks, linkAddr{index, neighbour}, func() []*device { return x.stack(index, neighbour) })
}

func (x *walk) stack(index int, neighbour netip.Addr) (ds []*device) {
	for range 8 { // bounds a loop, which the kernel does not allow
		d := x.device(index)
		ds = append(ds, d)
		switch d.Kind {
		case "bridge", "bond", "team":
			index = x.port(d, neighbour)
		case "vlan", "macvlan", "ipvlan", "macvtap":
			index = d.Lower
		default:
			return ds
		}
		if index == 0 {
			return ds
		}
	}
	return ds
}

// port returns the port by which a bridge or bond reaches a neighbour; zero: it cannot be known.
func (x *walk) port(d *device, neighbour netip.Addr) int {
	if neighbour.IsValid() && d.Kind == "bridge" {
		if n, err := x.neighbour(neighbour, d.Index); err == nil && n != nil && n.MAC != nil {
			if f, err := x.facts.FDB(d.Index, n.MAC); err == nil && f != nil && !f.Local {
				return f.Port
			}
		}
	}
	ports, err := x.facts.Ports(d.Index)
	if err != nil {
		x.failed("ports of "+d.Name, err)
	}
	first := 0
	for _, p := range ports {
		if !p.Carrier {
			continue
		}
		if first != 0 && d.Kind == "bridge" {
			return 0 // one of several
		}
		if first == 0 {
			first = p.Index
		}
	}
	return first
}

// failed notes what could not be read, though it may not lie on the way.
func (x *Snapshot) failed(what string, err error) {
	text := fmt.Sprintf("%s: %v", what, err)
	if !slices.Contains(x.unreadable, text) {
		x.unreadable = append(x.unreadable, text)
	}
}
