// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
)

// kernelBridges are the kernel's. Its messages are made here, for the library has none
// for a single neighbour, a bridge's table of stations, or a port's mode as it is told
// with the interface.
type kernelBridges struct {
	sysctls hostnet.Sysctls
	socket  *nl.SocketHandle
}

func openBridges(ns *hostnet.Namespace, s hostnet.Sysctls) (*kernelBridges, error) {
	socket, err := nl.GetNetlinkSocketAt(ns.Handle(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open bridges: %w", err)
	}
	return &kernelBridges{s, &nl.SocketHandle{Socket: socket}}, nil
}

func (k *kernelBridges) close() { k.socket.Close() }

func (k *kernelBridges) hooked() (hooks, error) { return readBridgeHooks(k.sysctls) }

// dumpAttempts bounds how often a list is read anew because it changed meanwhile. What
// is missing from the last is found when it makes itself heard.
const dumpAttempts = 3

// ask sends a request and calls f with each answer.
func (k *kernelBridges) ask(kind, flags int, f func([]byte), data ...nl.NetlinkRequestData) error {
	for attempt := 1; ; attempt++ {
		req := nl.NewNetlinkRequest(kind, flags)
		req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: k.socket}
		for _, d := range data {
			req.AddData(d)
		}
		answers, err := req.Execute(unix.NETLINK_ROUTE, 0)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			if attempt < dumpAttempts {
				continue
			}
			err = nil
		}
		for _, a := range answers {
			f(a)
		}
		return err
	}
}

// maxSingle is up to how many things are asked for one by one and not in a list. A list
// has everything in it: it takes milliseconds where a bridge has hundreds of ports.
const maxSingle = 64

func ignoreAnswer([]byte) {}

func (k *kernelBridges) link(index int) (bridgeLink, error) {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	l, err := k.oneLink(msg)
	if err != nil {
		return bridgeLink{}, fmt.Errorf("look up interface %d: %w", index, err)
	}
	return l, nil
}

func (k *kernelBridges) linkNamed(name string) (bridgeLink, error) {
	l, err := k.oneLink(nl.NewIfInfomsg(unix.AF_UNSPEC), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	if err != nil {
		return bridgeLink{}, fmt.Errorf("look up interface %s: %w", name, err)
	}
	return l, nil
}

func (k *kernelBridges) oneLink(data ...nl.NetlinkRequestData) (l bridgeLink, err error) {
	err = k.ask(unix.RTM_GETLINK, 0, func(b []byte) { l, _ = parseBridgeLink(b) }, data...)
	if errors.Is(err, unix.ENODEV) {
		err = fmt.Errorf("%w: %w", unix.ENOENT, err)
	}
	return l, err
}

func (k *kernelBridges) ports() (ports []bridgeLink, err error) {
	err = k.ask(unix.RTM_GETLINK, unix.NLM_F_DUMP, func(b []byte) {
		if l, ok := parseBridgeLink(b); ok && l.bridge != 0 {
			ports = append(ports, l)
		}
	}, nl.NewIfInfomsg(unix.AF_BRIDGE))
	if err != nil {
		return nil, fmt.Errorf("list bridge ports: %w", err)
	}
	return ports, nil
}

func (k *kernelBridges) portsNamed(names []string) (map[string]bridgeLink, error) {
	found := make(map[string]bridgeLink, len(names))
	if len(names) > maxSingle {
		ports, err := k.ports()
		wanted := make(map[string]bool, len(names))
		for _, name := range names {
			wanted[name] = true
		}
		for _, l := range ports {
			if wanted[l.name] {
				found[l.name] = l
			}
		}
		return found, err
	}
	for _, name := range names {
		l, err := k.linkNamed(name)
		if err != nil && !notThere(err) {
			return nil, err
		}
		if err == nil && l.bridge != 0 {
			found[name] = l
		}
	}
	return found, nil
}

func (k *kernelBridges) neighbour(link int, a netip.Addr) (hardwareAddr, error) {
	var found neighbourMessage
	err := k.ask(unix.RTM_GETNEIGH, 0, func(b []byte) { found, _ = parseNeighbour(b) },
		&netlink.Ndmsg{Family: familyOf(a), Index: uint32(link)}, nl.NewRtAttr(unix.NDA_DST, a.AsSlice()))
	if err == nil && !found.hasMAC {
		err = unix.ENOENT
	}
	if err != nil {
		return hardwareAddr{}, fmt.Errorf("look up neighbour %s: %w", a, err)
	}
	return found.mac, nil
}

func (k *kernelBridges) neighbours() (all []neighbour, err error) {
	err = k.ask(unix.RTM_GETNEIGH, unix.NLM_F_DUMP, func(b []byte) {
		if n, ok := parseNeighbour(b); ok && n.hasMAC && n.addr.IsValid() {
			all = append(all, neighbour{n.link, n.addr, n.mac})
		}
	}, &netlink.Ndmsg{Family: unix.AF_UNSPEC})
	if err != nil {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	return all, nil
}

// solicit has the kernel do what it does for a packet to the address (NTF_USE), which
// for one that it knows and has not used for some time is to wait for five seconds
// (delay_first_probe_time): a neighbour in the state NUD_PROBE is asked at once.
func (k *kernelBridges) solicit(link int, a netip.Addr, known bool) error {
	msg := &netlink.Ndmsg{Family: familyOf(a), Index: uint32(link), Flags: unix.NTF_USE}
	if known {
		msg.Flags, msg.State = 0, netlink.NUD_PROBE
	}
	err := k.ask(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK, ignoreAnswer,
		msg, nl.NewRtAttr(unix.NDA_DST, a.AsSlice()))
	if err != nil {
		return fmt.Errorf("solicit neighbour %s: %w", a, err)
	}
	return nil
}

func (k *kernelBridges) stations(bridge bridgeLink, macs []hardwareAddr) (map[hardwareAddr]int, error) {
	if bridge.vlans || len(macs) > maxSingle {
		return k.allStations(bridge.index)
	}
	found := make(map[hardwareAddr]int, len(macs))
	for _, mac := range macs {
		err := k.ask(unix.RTM_GETNEIGH, 0, func(b []byte) {
			if n, ok := parseNeighbour(b); ok && n.station(bridge.index) {
				found[mac] = n.link
			}
		}, &netlink.Ndmsg{Family: unix.AF_BRIDGE},
			nl.NewRtAttr(unix.NDA_MASTER, nl.Uint32Attr(uint32(bridge.index))), nl.NewRtAttr(unix.NDA_LLADDR, mac[:]))
		if err != nil && !notThere(err) {
			return nil, fmt.Errorf("look up a station of bridge %s: %w", bridge.name, err)
		}
	}
	return found, nil
}

func (k *kernelBridges) allStations(bridge int) (map[hardwareAddr]int, error) {
	found := map[hardwareAddr]int{}
	// A table of one bridge is asked for in the shape of a link message, unless the
	// socket checks strictly (valid_fdb_dump_legacy in net/core/rtnetlink.c).
	err := k.ask(unix.RTM_GETNEIGH, unix.NLM_F_DUMP, func(b []byte) {
		if n, ok := parseNeighbour(b); ok && n.station(bridge) {
			found[n.mac] = n.link
		}
	}, nl.NewIfInfomsg(unix.AF_BRIDGE), nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge))))
	if err != nil {
		return nil, fmt.Errorf("list stations of bridge %d: %w", bridge, err)
	}
	return found, nil
}

func (k *kernelBridges) setHairpin(port int, on bool) error {
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(port)
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	mode := byte(0)
	if on {
		mode = 1
	}
	info.AddRtAttr(nl.IFLA_BRPORT_MODE, []byte{mode})
	if err := k.ask(unix.RTM_SETLINK, unix.NLM_F_ACK, ignoreAnswer, msg, info); err != nil {
		return fmt.Errorf("set hairpin mode of port %d: %w", port, err)
	}
	return nil
}

func familyOf(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// attributes calls f with each attribute of a message or of another attribute. What
// cannot be read is left out.
func attributes(b []byte, f func(kind uint16, value []byte)) {
	all, err := nl.ParseRouteAttr(b)
	if err != nil {
		return
	}
	for _, a := range all {
		f(a.Attr.Type&^uint16(unix.NLA_F_NESTED), a.Value)
	}
}

// parseBridgeLink reads a link message, of either family: of AF_BRIDGE the port's mode
// is told as protocol information, else as that of its master's driver.
func parseBridgeLink(b []byte) (l bridgeLink, ok bool) {
	if len(b) < unix.SizeofIfInfomsg {
		return bridgeLink{}, false
	}
	l.index = int(nl.DeserializeIfInfomsg(b).Index)
	isPort := nl.DeserializeIfInfomsg(b).Family == unix.AF_BRIDGE
	master := 0
	attributes(b[unix.SizeofIfInfomsg:], func(kind uint16, value []byte) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.name = unix.ByteSliceToString(value)
		case unix.IFLA_MASTER:
			master = int(u32(value))
		case unix.IFLA_PROTINFO:
			if isPort {
				l.hairpin = portMode(value)
			}
		case unix.IFLA_LINKINFO:
			isPort = l.parseInfo(value) || isPort
		}
	})
	if isPort {
		l.bridge = master
	}
	return l, true
}

// parseInfo reads what the drivers of an interface and of its master tell, and returns
// whether the latter is a bridge.
func (l *bridgeLink) parseInfo(b []byte) (isPort bool) {
	var data, slaveData []byte
	attributes(b, func(kind uint16, value []byte) {
		switch kind {
		case unix.IFLA_INFO_KIND:
			l.kind = unix.ByteSliceToString(value)
		case unix.IFLA_INFO_DATA:
			data = value
		case unix.IFLA_INFO_SLAVE_KIND:
			isPort = unix.ByteSliceToString(value) == kindBridge
		case unix.IFLA_INFO_SLAVE_DATA:
			slaveData = value
		}
	})
	if isPort {
		l.hairpin = portMode(slaveData)
	}
	if l.kind == kindBridge {
		attributes(data, func(kind uint16, value []byte) {
			switch kind {
			case unix.IFLA_BR_NF_CALL_IPTABLES:
				l.hooks.four = isSet(value)
			case unix.IFLA_BR_NF_CALL_IP6TABLES:
				l.hooks.six = isSet(value)
			case unix.IFLA_BR_VLAN_FILTERING:
				l.vlans = isSet(value)
			}
		})
	}
	return isPort
}

const kindBridge = "bridge"

func portMode(b []byte) (on bool) {
	attributes(b, func(kind uint16, value []byte) { on = on || kind == nl.IFLA_BRPORT_MODE && isSet(value) })
	return on
}

func isSet(b []byte) bool { return len(b) != 0 && b[0] != 0 }

func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return nl.NativeEndian().Uint32(b)
}

// neighbourMessage is a message of a neighbour, or of a station of a bridge.
type neighbourMessage struct {
	family uint8
	state  uint16
	flags  uint8
	link   int
	master int
	addr   netip.Addr
	mac    hardwareAddr
	hasMAC bool
}

// station reports whether it is one that the bridge has learned or was told, not an
// address of a port itself.
func (n neighbourMessage) station(bridge int) bool {
	return n.family == unix.AF_BRIDGE && n.hasMAC && n.master == bridge && n.link != bridge &&
		n.state&netlink.NUD_PERMANENT == 0 && n.flags&unix.NTF_SELF == 0
}

// sizeofNdmsg is the length of struct ndmsg (include/uapi/linux/neighbour.h).
const sizeofNdmsg = 12

func parseNeighbour(b []byte) (n neighbourMessage, ok bool) {
	if len(b) < sizeofNdmsg {
		return neighbourMessage{}, false
	}
	n.family = b[0]
	n.link = int(u32(b[4:]))
	n.state = nl.NativeEndian().Uint16(b[8:])
	n.flags = b[10]
	attributes(b[sizeofNdmsg:], func(kind uint16, value []byte) {
		switch kind {
		case unix.NDA_DST:
			n.addr, _ = netip.AddrFromSlice(value)
		case unix.NDA_LLADDR:
			n.hasMAC = copy(n.mac[:], value) == len(n.mac) && len(value) == len(n.mac)
		case unix.NDA_MASTER:
			n.master = int(u32(value))
		}
	})
	return n, true
}

// notThere reports whether a port, or what it was asked for, has gone.
func notThere(err error) bool {
	return isNotExist(err) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP)
}
