// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import "net/netip"

// Link is an interface.
type Link struct {
	Index     int
	Name      string
	Type      uint16 // ARPHRD_*
	Kind      string // of IFLA_INFO_KIND: "bridge", "veth"; empty for hardware and loopback
	Flags     uint32 // IFF_*
	OperState uint8  // IF_OPER_*
	Carrier   bool
	MTU       int
	Group     uint32
	MAC       []byte
	// Master is the index of the bridge, bond or VRF that it belongs to; zero: none. MasterKind is
	// the kind of that ("bridge", "vrf"), as the kernel says it to a port.
	Master     int
	MasterKind string
	// Lower is the index of the interface below or the other end of a veth; zero: none. PeerNS is the
	// number by which this namespace knows that of Lower; -1: this one.
	Lower  int
	PeerNS int32
	// VLAN is the number of a link of kind vlan.
	VLAN uint16
	// XDP are the programs of XDP; empty: none.
	XDP []XDP
	// Port says how a bridge treats it; nil: it is no port of a bridge.
	Port *BridgePort
	// Bridge says how a bridge is set; nil: it is none.
	Bridge *Bridge
	// VRFTable is the table of a link of kind vrf.
	VRFTable uint32
	// PortVRFTable is the table of the VRF that it belongs to; zero: none.
	PortVRFTable uint32
}

// XDP is an attached program of XDP.
type XDP struct {
	Mode    string // driver, skb (generic) or hardware
	Program uint32 // its id
}

// BridgePort is a port of a bridge.
type BridgePort struct {
	State                                               uint8 // BR_STATE_*
	Hairpin, Isolated, NeighSuppress, Learning, Unicast bool
	VLANTunnel, MulticastFlood, BroadcastFlood, Locked  bool
	ProxyARP, ProxyARPWiFi, Guard, RootBlock, FastLeave bool
}

// Bridge is what a bridge does.
type Bridge struct {
	VLANFiltering, CallIPTables, CallIP6Tables bool
	DefaultPVID                                uint16
}

// Up reports whether it is administratively up.
func (l *Link) Up() bool { return l.Flags&1 != 0 }

// Why says why it takes no packets, as "down" or "no carrier"; empty: it takes them.
func (l *Link) Why() string { return "" }

// Address is an address of an interface.
type Address struct {
	Link   int
	Prefix netip.Prefix // the address, and the length of its prefix
	Peer   netip.Addr   // of a point-to-point link; invalid: none
	Scope  uint8        // RT_SCOPE_*
	Flags  uint32       // IFA_F_*
	Label  string
	// Permanent is set unless it has a lifetime.
	Permanent bool
}

// Why says why the host does not answer for it, as "tentative" or "duplicate"; empty: it does.
func (a *Address) Why() string { return "" }

// Text is the address about as `ip address` prints it: "192.0.2.9/24 scope global secondary eth0".
func (a *Address) String() string { return "" }

// Links lists all interfaces.
func (h *Host) Links() ([]*Link, error) { return nil, errTODO }

// Link returns an interface by its index. The error is fs.ErrNotExist if there is none.
func (h *Host) Link(index int) (*Link, error) { return nil, errTODO }

// LinkByName returns an interface by its name. The error is fs.ErrNotExist if there is none.
func (h *Host) LinkByName(name string) (*Link, error) { return nil, errTODO }

// Ports lists the ports of a bridge.
func (h *Host) Ports(bridge int) ([]*Link, error) { return nil, errTODO }

// Addresses lists the addresses of all interfaces.
func (h *Host) Addresses() ([]*Address, error) { return nil, errTODO }

// AddressesOf lists those of one.
func (h *Host) AddressesOf(link int) ([]*Address, error) { return nil, errTODO }

// Address returns the address of the host that equals addr, wherever it is; nil: there is none. Of
// several one that can be used comes first.
func (h *Host) Address(addr netip.Addr) (*Address, error) { return nil, errTODO }
