// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"fmt"
	"net/netip"
)

// Network is a prefix from which endpoints get addresses. Packets that leave it are
// masqueraded, and only its published ports can be reached from outside.
type Network struct {
	// Name is letters, digits, dots, dashes and underscores, the first a letter or digit, at
	// most 4,096. It is a comment in the kernel, and what is longer than 63 is kept as
	// [Name] says.
	Name string
	// Prefix has its addresses, at least two, and no host bits.
	Prefix netip.Prefix
	// Gateway is the host's own address on the network. It is never leased. Zero:
	// the first address that can be a host's.
	Gateway netip.Addr
	// NoMasquerade keeps the source address of packets that leave the network, for networks
	// to which others have a route. Zero: it becomes an address of this host.
	NoMasquerade bool
	// NoGuard lets others reach all ports of the network by routing. Zero: published ports
	// only.
	NoGuard bool
	// Next is the address at which the search for a free one begins. Zero: the first one in
	// a new network; otherwise the search goes on from where it was.
	Next netip.Addr
}

// Values of InvalidError.What.
const (
	WhatNetwork  = "network"
	WhatEndpoint = "endpoint"
)

// ParseNetwork parses the arguments of a command line. An empty gateway is the first address.
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

// Validate reports whether n can be a network on some host, as far as that depends on n
// alone. The error is an [*InvalidError].
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

// noNetworks are prefixes whose addresses are not used between hosts, or are special to the
// kernel.
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

// WithDefaults replaces zero fields by their defaults.
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

// labelFault refuses names of networks and endpoints that need quoting in a comment, a path of
// the API, a file or a shell.
func labelFault(name string) string {
	if name == "" {
		return "no name is given"
	}
	if len(name) > maxLongName {
		return fmt.Sprintf("name has %d bytes, more than %d", len(name), maxLongName)
	}
	for i := range len(name) {
		c := name[i]
		if i == maxName-digits-1 && len(name) == maxName && name[i:i+1] == hashMark {
			continue // of a longer name
		}
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
