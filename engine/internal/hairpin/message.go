// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hairpin

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// linkHeader is a struct ifinfomsg (include/uapi/linux/rtnetlink.h).
func linkHeader(family uint8, index int) []byte {
	b := make([]byte, unix.SizeofIfInfomsg, 64)
	b[0] = family
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	return b
}

// neighbourHeader is a struct ndmsg (include/uapi/linux/neighbour.h).
func neighbourHeader(family uint8, link int, state uint16, flags uint8) []byte {
	b := make([]byte, unix.SizeofNdMsg, 64)
	b[0] = family
	binary.NativeEndian.PutUint32(b[4:], uint32(link))
	binary.NativeEndian.PutUint16(b[8:], state)
	b[10] = flags
	return b
}

// neighbourRequest asks for, or sets, the neighbour with an address.
func neighbourRequest(a netip.Addr, link int, state uint16, flags uint8) []byte {
	family := uint8(unix.AF_INET6)
	if a.Is4() {
		family = unix.AF_INET
	}
	return nlwire.AppendAttr(neighbourHeader(family, link, state, flags), unix.NDA_DST, a.AsSlice()...)
}

// attributes are the payloads of attributes, by type.
type attributes [unix.IFLA_BR_NF_CALL_IP6TABLES + 1][]byte

// brportMode is IFLA_BRPORT_MODE of include/uapi/linux/if_link.h.
const brportMode = 4

// decode reads attributes. What cannot be read is left out.
func decode(b []byte) (as attributes) {
	for a := (nlwire.Attrs{Data: b}); a.Next(); {
		if int(a.Type) < len(as) {
			as[a.Type] = a.Payload
		}
	}
	return as
}

func (as attributes) text(kind int) string { return unix.ByteSliceToString(as[kind]) }

func (as attributes) isSet(kind int) bool { return len(as[kind]) != 0 && as[kind][0] != 0 }

func (as attributes) number(kind int) int {
	if len(as[kind]) != 4 {
		return 0
	}
	return int(binary.NativeEndian.Uint32(as[kind]))
}

// parseLink reads a link message of either family: that of AF_BRIDGE has the port's mode
// as protocol information, others as data of the driver of its master.
func parseLink(b []byte) (l Link, ok bool) {
	if len(b) < unix.SizeofIfInfomsg {
		return Link{}, false
	}
	as := decode(b[unix.SizeofIfInfomsg:])
	info := decode(as[unix.IFLA_LINKINFO])
	port := info[unix.IFLA_INFO_SLAVE_DATA]
	isPort := info.text(unix.IFLA_INFO_SLAVE_KIND) == kindBridge
	if b[0] == unix.AF_BRIDGE {
		port, isPort = as[unix.IFLA_PROTINFO], true
	}
	l = Link{Index: int(binary.NativeEndian.Uint32(b[4:])), Name: as.text(unix.IFLA_IFNAME), Kind: info.text(unix.IFLA_INFO_KIND)}
	if isPort {
		l.Bridge, l.Hairpin = as.number(unix.IFLA_MASTER), decode(port).isSet(brportMode)
	}
	if l.Kind == kindBridge {
		data := decode(info[unix.IFLA_INFO_DATA])
		l.Hooks = Hooks{data.isSet(unix.IFLA_BR_NF_CALL_IPTABLES), data.isSet(unix.IFLA_BR_NF_CALL_IP6TABLES)}
		l.VLANs = data.isSet(unix.IFLA_BR_VLAN_FILTERING)
	}
	return l, true
}

// neighbour is a neighbour, or an entry of a forwarding database.
type neighbour struct {
	Neighbour
	hasMAC  bool
	master  int
	learned bool // by a bridge, or told to it: not an address of a port itself
	// set is whether somebody has set it, instead of the kernel having found it out.
	set    bool
	router byte // NTF_ROUTER, or 0
}

// From include/uapi/linux/neighbour.h.
const (
	ndaFlagsExt   = 15     // NDA_FLAGS_EXT
	ntfExtManaged = 1 << 0 // NTF_EXT_MANAGED
)

func parseNeighbour(b []byte) (n neighbour, ok bool) {
	if len(b) < unix.SizeofNdMsg {
		return neighbour{}, false
	}
	as := decode(b[unix.SizeofNdMsg:])
	n.Link, n.master = int(binary.NativeEndian.Uint32(b[4:])), as.number(unix.NDA_MASTER)
	n.Addr, _ = netip.AddrFromSlice(as[unix.NDA_DST])
	n.hasMAC = len(as[unix.NDA_LLADDR]) == len(n.MAC)
	copy(n.MAC[:], as[unix.NDA_LLADDR])
	state, flags := binary.NativeEndian.Uint16(b[8:]), b[10]
	n.learned = b[0] == unix.AF_BRIDGE && n.hasMAC && n.Link != n.master &&
		state&unix.NUD_PERMANENT == 0 && flags&unix.NTF_SELF == 0
	n.set = state&(unix.NUD_PERMANENT|unix.NUD_NOARP) != 0 || flags&unix.NTF_EXT_LEARNED != 0 ||
		as.number(ndaFlagsExt)&ntfExtManaged != 0
	n.router = flags & unix.NTF_ROUTER
	return n, true
}

// ParseEvent reads a notification of a link or a neighbour; false: it does not matter.
func ParseEvent(m nlwire.Message) (Event, bool) {
	ev := parseEvent(m)
	return ev, ev.kind != 0
}

func parseEvent(m nlwire.Message) Event {
	switch m.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		l, ok := parseLink(m.Payload)
		switch {
		case !ok:
		case l.Kind == kindBridge:
			return Event{kind: bridgeChanged, link: l.Index, hooks: l.Hooks}
		case m.Type == unix.RTM_DELLINK: // also of family AF_BRIDGE (br_del_if in net/bridge/br_if.c)
			return Event{kind: portLeft, link: l.Index}
		case l.Bridge != 0:
			return Event{kind: portChanged, link: l.Index}
		}
	case unix.RTM_NEWNEIGH:
		n, ok := parseNeighbour(m.Payload)
		switch {
		case !ok, !n.hasMAC:
		case n.learned:
			return Event{kind: addressLearned, link: n.Link, bridge: n.master, mac: n.MAC}
		case n.Addr.IsValid():
			return Event{kind: neighbourChanged, link: n.Link, addr: n.Addr, mac: n.MAC}
		}
	}
	return Event{}
}
