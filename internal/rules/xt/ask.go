// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import "net/netip"

// SetQuery is what a match asks a set of ipset: whether it has an element for the packet.
type SetQuery struct {
	// Dim is how many fields the match names, and bit i+1 of Flags is set if the i-th is of the
	// source (IPSET_DIM_ONE_SRC and so on).
	Dim, Flags       uint8
	Proto            uint8
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16 // of ICMP: type and code are in DstPort
	SrcMAC, DstMAC   []byte // nil: not known
	In, Out          string // names of interfaces; empty: none
	PhysIn, PhysOut  string // of the bridge's ports
}

// RecentEntry is an address in a list of the match recent.
type RecentEntry struct {
	Addr  netip.Addr
	TTL   uint8
	Stamp []uint64 // when packets came, in jiffies, oldest first
}
