// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"fmt"
	"net/netip"
)

// Network is a prefix whose addresses endpoints get. What of it leaves the host is
// masqueraded, and from outside only published ports of it answer.
type Network struct {
	// Name is 1 to 63 letters, digits, dots, dashes and underscores, the first a
	// letter or digit. It is kept as a comment in the kernel.
	Name string
	// Prefix is where its addresses are, without host bits: of 2 addresses at least.
	Prefix netip.Prefix
	// Gateway is the host's own address on the network. It is never leased. Zero:
	// the first address that can be a host's.
	Gateway netip.Addr
	// NoMasquerade leaves the source of what the network sends to the world as it is:
	// somebody routes the answers back. Zero: it becomes this host's.
	NoMasquerade bool
	// NoGuard lets everybody reach every port of the network who has a route to it.
	// Zero: published ports only.
	NoGuard bool
	// Next is the address from which on the next free one is looked for. Of a network
	// that is to be created, zero: the first. Others: where the last one left off.
	Next netip.Addr
}

// Values of InvalidError.What.
const (
	WhatNetwork  = "network"
	WhatEndpoint = "endpoint"
)

// ParseNetwork reads the words of a command line; an empty gateway is the first address.
// An IPv4 prefix mapped into IPv6 is refused. It checks the form only: see
// [Network.Validate]. Errors are [*InvalidError].
func ParseNetwork(name, prefix, gateway string) (Network, error) {
	n := Network{Name: name}
	var err error
	if n.Prefix, err = netip.ParsePrefix(prefix); err != nil {
		return Network{}, &InvalidError{What: "prefix", Input: prefix, Reason: "a network is written ADDRESS/LENGTH, as in 172.30.0.0/24"}
	}
	if gateway == "" {
		return n, nil
	}
	var reason string
	if n.Gateway, reason = parseAddr(gateway); reason != "" {
		return Network{}, &InvalidError{What: "gateway", Input: gateway, Reason: reason}
	}
	return n, nil
}

// String returns name and prefix: `inside 172.30.0.0/24`.
func (n Network) String() string { return n.Name + " " + n.Prefix.String() }

// Validate reports whether n can be a network on some host, as far as n alone tells.
// The error is an [*InvalidError].
func (n Network) Validate() error {
	if reason := n.fault(); reason != "" {
		return &InvalidError{What: WhatNetwork, Input: n.String(), Reason: reason}
	}
	return nil
}

func (n Network) fault() string {
	p := n.Prefix
	if fault := labelFault(n.Name); fault != "" {
		return fault
	}
	switch {
	case !p.IsValid():
		return "no prefix is given"
	case p.Addr().Is4In6():
		return "an IPv4 prefix written as IPv6"
	case p != p.Masked():
		return fmt.Sprintf("the address has bits beyond the prefix; the network is %s", p.Masked())
	case p.Bits() == 0:
		return "a network is not the whole world"
	case p.IsSingleIP():
		return "it has no room for a gateway and an endpoint"
	}
	for _, no := range noNetworks {
		if p.Overlaps(no.prefix) {
			return fmt.Sprintf("it overlaps %s, %s", no.prefix, no.what)
		}
	}
	for _, own := range []struct {
		what string
		addr netip.Addr
	}{{"gateway", n.Gateway}, {"next address", n.Next}} {
		switch {
		case !own.addr.IsValid():
		case !p.Contains(own.addr):
			return fmt.Sprintf("the %s %s is not in it", own.what, own.addr)
		}
	}
	if g := n.Gateway; g.IsValid() && (g.Is4() && p.Bits() < 31 && (g == p.Addr() || g == lastAddr(p))) {
		return fmt.Sprintf("the gateway %s is the network's or the broadcast address", g)
	}
	return ""
}

// noNetworks are prefixes that no packet between hosts has an address of, or of which
// the kernel has a use of its own.
var noNetworks = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), `"this network" (RFC 1122 section 3.2.1.3)`},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback addresses"},
	{netip.MustParsePrefix("224.0.0.0/3"), "multicast and reserved addresses (RFC 1112 section 4)"},
	{netip.MustParsePrefix("::/64"), "unspecified, loopback and mapped addresses (RFC 4291 section 2.5)"},
	{netip.MustParsePrefix("fe80::/10"), "link-local addresses, which every link has"},
	{netip.MustParsePrefix("ff00::/8"), "multicast addresses"},
}

// WithDefaults fills in what zero means.
func (n Network) WithDefaults() Network {
	if !n.Gateway.IsValid() {
		n.Gateway = n.Prefix.Addr()
		// A network of two addresses has no address of its own (RFC 3021, RFC 6164).
		if n.Prefix.Addr().BitLen()-n.Prefix.Bits() > 1 {
			n.Gateway = n.Gateway.Next()
		}
	}
	return n
}

// lastAddr is the last address of a prefix: the broadcast address of an IPv4 one.
func lastAddr(p netip.Prefix) netip.Addr {
	raw := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < 8*len(raw); bit++ {
		raw[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(raw)
	return last
}

// labelFault keeps the names of networks and endpoints to what can stand in a comment,
// a path of the API, a file and a shell's word alike.
func labelFault(name string) string {
	if name == "" {
		return "no name is given"
	}
	if len(name) > maxName {
		return fmt.Sprintf("name has %d bytes, more than %d", len(name), maxName)
	}
	for i := range len(name) {
		c := name[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		switch {
		case alnum:
		case i == 0:
			return "name does not begin with a letter or digit"
		case c != '.' && c != '-' && c != '_':
			return fmt.Sprintf("name has a byte other than letters, digits, dots, dashes and underscores at byte %d", i+1)
		}
	}
	return ""
}
