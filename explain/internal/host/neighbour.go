// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import "net/netip"

// Neighbour is what the kernel knows of an address on a link.
type Neighbour struct {
	Addr  netip.Addr
	Link  int
	State uint16 // NUD_*
	Flags uint32 // NTF_*
	MAC   []byte // nil: not known
}

// String returns it about as `ip neigh` prints it: "172.30.0.2 dev br0 lladdr ... FAILED".
func (n *Neighbour) String() string { return "" }

// Dead reports whether the kernel has asked for it in vain.
func (n *Neighbour) Dead() bool { return false }

// Permanent reports whether somebody has set it, and the kernel does not ask.
func (n *Neighbour) Permanent() bool { return false }

// Neighbour returns the entry of an address on a link; nil: there is none. None is made.
func (h *Host) Neighbour(addr netip.Addr, link int) (*Neighbour, error) { return nil, errTODO }

// ProxyNeighbour reports whether the host answers for an address on a link by an entry of `ip neigh
// add proxy`.
func (h *Host) ProxyNeighbour(addr netip.Addr, link int) (bool, error) { return false, errTODO }

// FDB is an entry of a bridge's forwarding database.
type FDB struct {
	Port  int    // index of the port, or of the bridge for its own addresses
	State uint16 // NUD_PERMANENT: local or static
	Local bool   // an address of the bridge or of a port: packets go to the host
	VLAN  uint16
}

// FDB returns the port behind which a bridge knows an address; nil: it knows none, and floods.
func (h *Host) FDB(bridge int, mac []byte) (*FDB, error) { return nil, errTODO }
