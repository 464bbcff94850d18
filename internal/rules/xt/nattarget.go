// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"net/netip"
	"strconv"
)

// NF_NAT_RANGE_*.
const (
	NatIPs = 1 << iota
	NatPorts
	NatRandom
	NatPersistent
	NatFullyRandom
	NatPortOffset
	NatNetmap
)

func decodeNat(b *blob, ip6 bool, name string, rev uint32) Target {
	t := Nat{Kind: name}
	wide := ip6 // struct nf_nat_range, else struct nf_nat_ipv4_multi_range_compat
	if name == "DNAT" || name == "SNAT" {
		wide = rev > 0
		if rev > 2 || !wide && ip6 {
			return nil
		}
	} else if rev > 1 {
		return nil
	}
	if wide {
		t.Flags, t.Min, t.Max = b.u32(0), b.addr(4, ip6), b.addr(20, ip6)
		t.PortMin, t.PortMax = b.be16(36), b.be16(38)
		if rev == 2 {
			t.PortBase = b.be16(40)
		}
		return t
	}
	if b.u32(0) != 1 {
		return nil
	}
	t.Flags, t.Min, t.Max, t.PortMin, t.PortMax = b.u32(4), b.addr4(8), b.addr4(12), b.be16(16), b.be16(18)
	return t
}

// Options returns where to.
func (t Nat) Options() string {
	w := &words{}
	ports := ""
	if t.Flags&NatPorts != 0 {
		ports = strconv.Itoa(int(t.PortMin))
		if t.PortMax != t.PortMin {
			ports += "-" + strconv.Itoa(int(t.PortMax))
		}
		if t.Flags&NatPortOffset != 0 {
			ports += "/" + strconv.Itoa(int(t.PortBase))
		}
	}
	to := ""
	if t.Flags&NatIPs != 0 {
		to = t.Min.String()
		if t.Max != t.Min {
			to += "-" + t.Max.String()
		}
		if ports != "" && t.Min.Is6() {
			to = "[" + to + "]"
		}
	}
	switch t.Kind {
	case "DNAT", "SNAT":
		if ports != "" {
			to += ":" + ports
		}
		option := "--to-destination"
		if t.Kind == "SNAT" {
			option = "--to-source"
		}
		if to != "" {
			w.add(option, to)
		}
	case "NETMAP":
		mask := t.Mask()
		if n, ok := prefixLen(mask); ok {
			w.add("--to", t.Min.String()+"/"+strconv.Itoa(n))
		} else {
			w.add("--to", t.Min.String()+"/"+mask.String())
		}
	default:
		if ports != "" {
			w.add("--to-ports", ports)
		}
	}
	w.on(t.Flags&NatRandom != 0, "--random")
	w.on(t.Flags&NatFullyRandom != 0, "--random-fully")
	w.on(t.Flags&NatPersistent != 0, "--persistent")
	return w.String()
}

// Mask is the mask of the network of NETMAP.
func (t Nat) Mask() netip.Addr {
	x, y := t.Min.AsSlice(), t.Max.AsSlice()
	for i := range x {
		x[i] = ^(x[i] ^ y[i])
	}
	mask, _ := netip.AddrFromSlice(x)
	return mask
}
