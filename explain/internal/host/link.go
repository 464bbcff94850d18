// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
	"github.com/nftnat/nftnat/internal/order"
)

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
	Mode    string // driver, generic or hardware
	Program uint32 // its id
}

// BridgePort is a port of a bridge.
type BridgePort struct {
	State         uint8 // BR_STATE_*
	Hairpin       bool  // it sends back what came from it
	Isolated      bool  // it does not reach other isolated ports
	NeighSuppress bool  // the bridge answers for neighbours that it knows
	Learning      bool
	Flood         bool // it takes packets to unknown addresses
	FloodAll      bool // and broadcasts
	Locked        bool // it takes packets from known addresses alone
}

// Bridge is what a bridge does.
type Bridge struct {
	VLANFiltering, CallIPTables, CallIP6Tables bool
	DefaultPVID                                uint16
}

// Up reports whether it is administratively up.
func (l *Link) Up() bool { return l.Flags&unix.IFF_UP != 0 }

// Why says why it takes no packets, as "down" or "no carrier"; empty: it takes them.
func (l *Link) Why() string {
	switch {
	case !l.Up():
		return "down"
	case !l.Carrier:
		return "no carrier"
	case l.Port != nil && int(l.Port.State) < len(portStates) && l.Port.State != brForwarding:
		return "a port of the bridge in state " + portStates[l.Port.State]
	}
	return ""
}

// The states of a port (BR_STATE_* in include/uapi/linux/if_bridge.h) as bridge(8) prints them.
var portStates = [...]string{"disabled", "listening", "learning", "forwarding", "blocking"}

const brForwarding = 3

// Attributes of include/uapi/linux/if_link.h that x/sys does not have, and the filter that leaves
// the counters out of an answer.
const (
	brportLocked      = 39
	iflaVRFTable      = 1
	iflaVRFPortTable  = 1
	iflaVLANID        = 1
	rtextSkipStats    = 1 << 3
	xdpAttachedDriver = 1
	xdpAttachedSKB    = 2
	xdpAttachedHW     = 3
)

// Links lists all interfaces.
func (h *Host) Links() ([]*Link, error) {
	if !h.allLinks {
		body := appendU32(make([]byte, unix.SizeofIfInfomsg), unix.IFLA_EXT_MASK, rtextSkipStats)
		links := map[int]*Link{}
		err := h.ask(unix.NETLINK_ROUTE, unix.RTM_GETLINK, unix.NLM_F_DUMP, body, func() { clear(links) }, func(m nlwire.Message) error {
			l, err := parseLink(m)
			if err == nil {
				links[l.Index] = l
			}
			return err
		})
		if err != nil {
			return nil, h.note(fmt.Errorf("list interfaces: %w", err))
		}
		h.links, h.allLinks = links, true
	}
	list := make([]*Link, 0, len(h.links))
	for _, l := range h.links {
		if l != nil {
			list = append(list, l)
		}
	}
	order.Sort(list, func(a, b *Link) int { return a.Index - b.Index })
	return list, nil
}

// Link returns an interface by its index. The error is fs.ErrNotExist if there is none.
func (h *Host) Link(index int) (*Link, error) {
	l, known := h.links[index]
	if !known && !h.allLinks {
		var err error
		if l, err = h.getLink(index, ""); err != nil {
			return nil, err
		}
		h.links[index] = l
	}
	if l == nil {
		return nil, fmt.Errorf("interface %d: %w", index, fs.ErrNotExist)
	}
	return l, nil
}

// LinkByName returns an interface by its name. The error is fs.ErrNotExist if there is none.
func (h *Host) LinkByName(name string) (*Link, error) {
	for _, l := range h.links {
		if l != nil && l.Name == name {
			return l, nil
		}
	}
	if !h.allLinks {
		l, err := h.getLink(0, name)
		if err != nil {
			return nil, err
		}
		if l != nil {
			h.links[l.Index] = l
			return l, nil
		}
	}
	return nil, fmt.Errorf("interface %s: %w", name, fs.ErrNotExist)
}

// getLink asks for one interface, by its index or else its name; nil: there is none.
func (h *Host) getLink(index int, name string) (l *Link, err error) {
	body := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(body[4:], uint32(index))
	if index == 0 {
		if len(name) == 0 || len(name) >= unix.IFNAMSIZ {
			return nil, nil
		}
		body = nlwire.AppendString(body, unix.IFLA_IFNAME, name)
	}
	body = appendU32(body, unix.IFLA_EXT_MASK, rtextSkipStats)
	err = h.ask(unix.NETLINK_ROUTE, unix.RTM_GETLINK, 0, body, nil, func(m nlwire.Message) (err error) {
		l, err = parseLink(m)
		return err
	})
	switch {
	case errors.Is(err, unix.ENODEV):
		return nil, nil
	case err != nil:
		return nil, h.note(fmt.Errorf("read interface: %w", err))
	}
	return l, nil
}

// linkName returns the name of an interface for a text.
func (h *Host) linkName(index int) string {
	if l, err := h.Link(index); err == nil {
		return l.Name
	}
	return fmt.Sprintf("if%d", index)
}

// Ports lists the ports of a bridge.
func (h *Host) Ports(bridge int) ([]*Link, error) {
	all, err := h.Links()
	if err != nil {
		return nil, err
	}
	var ports []*Link
	for _, l := range all {
		if l.Master == bridge {
			ports = append(ports, l)
		}
	}
	return ports, nil
}

func parseLink(m nlwire.Message) (*Link, error) {
	if len(m.Payload) < unix.SizeofIfInfomsg {
		return nil, nlwire.ErrMalformed
	}
	l := &Link{
		Type: u16(m.Payload[2:]), Index: int(int32(u32(m.Payload[4:]))), Flags: u32(m.Payload[8:]), PeerNS: -1,
	}
	l.Carrier = l.Flags&unix.IFF_RUNNING != 0
	a := m.Attrs(unix.SizeofIfInfomsg)
	for a.Next() {
		switch a.Type {
		case unix.IFLA_IFNAME:
			l.Name = unix.ByteSliceToString(a.Payload)
		case unix.IFLA_ADDRESS:
			l.MAC = slices.Clone(a.Payload)
		case unix.IFLA_MTU:
			l.MTU = int(u32(a.Payload))
		case unix.IFLA_LINK:
			l.Lower = int(u32(a.Payload))
		case unix.IFLA_LINK_NETNSID:
			l.PeerNS = int32(u32(a.Payload))
		case unix.IFLA_MASTER:
			l.Master = int(u32(a.Payload))
		case unix.IFLA_OPERSTATE:
			l.OperState = u8(a.Payload)
		case unix.IFLA_CARRIER:
			l.Carrier = u8(a.Payload) != 0
		case unix.IFLA_GROUP:
			l.Group = u32(a.Payload)
		case unix.IFLA_XDP:
			l.XDP = parseXDP(a.Payload)
		case unix.IFLA_LINKINFO:
			l.parseInfo(a.Payload)
		}
	}
	if l.PeerNS < 0 && l.Lower == l.Index {
		l.Lower = 0
	}
	return l, a.Err
}

// parseInfo reads IFLA_LINKINFO.
func (l *Link) parseInfo(b []byte) {
	l.Kind = nlwire.FindString(b, unix.IFLA_INFO_KIND)
	l.MasterKind = nlwire.FindString(b, unix.IFLA_INFO_SLAVE_KIND)
	data, slave := nlwire.Find(b, unix.IFLA_INFO_DATA), nlwire.Find(b, unix.IFLA_INFO_SLAVE_DATA)
	switch l.Kind {
	case "vlan":
		l.VLAN = u16(nlwire.Find(data, iflaVLANID))
	case "vrf":
		l.VRFTable = u32(nlwire.Find(data, iflaVRFTable))
	case "bridge":
		l.Bridge = &Bridge{
			VLANFiltering: u8(nlwire.Find(data, unix.IFLA_BR_VLAN_FILTERING)) != 0,
			CallIPTables:  u8(nlwire.Find(data, unix.IFLA_BR_NF_CALL_IPTABLES)) != 0,
			CallIP6Tables: u8(nlwire.Find(data, unix.IFLA_BR_NF_CALL_IP6TABLES)) != 0,
			DefaultPVID:   u16(nlwire.Find(data, unix.IFLA_BR_VLAN_DEFAULT_PVID)),
		}
	}
	switch l.MasterKind {
	case "vrf":
		l.PortVRFTable = u32(nlwire.Find(slave, iflaVRFPortTable))
	case "bridge":
		is := func(typ uint16) bool { return u8(nlwire.Find(slave, typ)) != 0 }
		l.Port = &BridgePort{
			State: u8(nlwire.Find(slave, unix.IFLA_BRPORT_STATE)), Hairpin: is(unix.IFLA_BRPORT_MODE),
			Isolated: is(unix.IFLA_BRPORT_ISOLATED), NeighSuppress: is(unix.IFLA_BRPORT_NEIGH_SUPPRESS),
			Learning: is(unix.IFLA_BRPORT_LEARNING), Flood: is(unix.IFLA_BRPORT_UNICAST_FLOOD),
			FloodAll: is(unix.IFLA_BRPORT_BCAST_FLOOD), Locked: is(brportLocked),
		}
	}
}

func parseXDP(b []byte) (programs []XDP) {
	add := func(mode string, typ uint16) {
		if id := u32(nlwire.Find(b, typ)); id != 0 {
			programs = append(programs, XDP{mode, id})
		}
	}
	switch attached := u8(nlwire.Find(b, unix.IFLA_XDP_ATTACHED)); attached {
	case 0:
	case xdpAttachedDriver:
		add("driver", unix.IFLA_XDP_PROG_ID)
	case xdpAttachedSKB:
		add("generic", unix.IFLA_XDP_PROG_ID)
	case xdpAttachedHW:
		add("hardware", unix.IFLA_XDP_PROG_ID)
	default: // several
		add("driver", unix.IFLA_XDP_DRV_PROG_ID)
		add("generic", unix.IFLA_XDP_SKB_PROG_ID)
		add("hardware", unix.IFLA_XDP_HW_PROG_ID)
	}
	return programs
}
