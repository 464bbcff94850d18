// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Neighbour is what the kernel knows of an address on a link.
type Neighbour struct {
	Addr  netip.Addr
	Link  int
	State uint16 // NUD_*
	Flags uint8  // NTF_*
	MAC   []byte // nil: not known
	// Text is it about as `ip neigh` prints it: "172.30.0.2 dev br0 FAILED".
	Text string
}

// String returns the Text.
func (n *Neighbour) String() string { return n.Text }

// Dead reports whether the kernel asks for it in vain, or has done so.
func (n *Neighbour) Dead() bool { return n.State&(unix.NUD_INCOMPLETE|unix.NUD_FAILED) != 0 }

// Permanent reports whether somebody has set it, and the kernel does not ask.
func (n *Neighbour) Permanent() bool { return n.State&unix.NUD_PERMANENT != 0 }

// neighbourStates are the names of ip-neighbour(8).
var neighbourStates = [...]struct {
	state uint16
	name  string
}{
	{unix.NUD_INCOMPLETE, "INCOMPLETE"}, {unix.NUD_REACHABLE, "REACHABLE"}, {unix.NUD_STALE, "STALE"}, {unix.NUD_DELAY, "DELAY"},
	{unix.NUD_PROBE, "PROBE"}, {unix.NUD_FAILED, "FAILED"}, {unix.NUD_NOARP, "NOARP"}, {unix.NUD_PERMANENT, "PERMANENT"},
}

// Neighbour returns the entry of an address on a link; nil: there is none. None is made. It is read each
// time that it is asked for.
func (h *Host) Neighbour(addr netip.Addr, link int) (*Neighbour, error) {
	n, err := h.neighbour(addr, link, 0)
	if n != nil {
		n.Text = h.neighbourText(n)
	}
	return n, err
}

// ProxyNeighbour reports whether the host answers for an address on a link by an entry of `ip neigh
// add proxy`.
func (h *Host) ProxyNeighbour(addr netip.Addr, link int) (bool, error) {
	n, err := h.neighbour(addr, link, unix.NTF_PROXY)
	return n != nil, err
}

func (h *Host) neighbour(addr netip.Addr, link int, flags uint8) (n *Neighbour, err error) {
	addr = addr.Unmap().WithZone("")
	body := make([]byte, unix.SizeofNdMsg)
	body[0], body[10] = family(addr.Is4()), flags
	binary.NativeEndian.PutUint32(body[4:], uint32(link))
	body = nlwire.AppendAttr(body, unix.NDA_DST, addr.AsSlice()...)
	err = h.ask(unix.NETLINK_ROUTE, unix.RTM_GETNEIGH, 0, body, nil, func(m nlwire.Message) (err error) {
		n, err = parseNeighbour(m)
		return err
	})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV):
		return nil, nil
	case err != nil:
		return nil, h.note(fmt.Errorf("read neighbour %s: %w", addr, err))
	}
	return n, nil
}

func (h *Host) neighbourText(n *Neighbour) string {
	words := []string{n.Addr.String(), "dev", h.linkName(n.Link)}
	if n.MAC != nil {
		words = append(words, "lladdr", net.HardwareAddr(n.MAC).String())
	}
	for _, s := range neighbourStates {
		if n.State&s.state != 0 {
			words = append(words, s.name)
		}
	}
	return strings.Join(words, " ")
}

func parseNeighbour(m nlwire.Message) (*Neighbour, error) {
	b := m.Payload
	if len(b) < unix.SizeofNdMsg {
		return nil, nlwire.ErrMalformed
	}
	n := &Neighbour{Link: int(u32(b[4:])), State: u16(b[8:]), Flags: b[10]}
	a := m.Attrs(unix.SizeofNdMsg)
	for a.Next() {
		switch a.Type {
		case unix.NDA_DST:
			n.Addr, _ = netip.AddrFromSlice(a.Payload)
		case unix.NDA_LLADDR:
			n.MAC = slices.Clone(a.Payload)
		}
	}
	return n, a.Err
}

// FDB is an entry of a bridge's forwarding database.
type FDB struct {
	Port  int  // index of the port, or of the bridge for its own addresses
	Local bool // an address of the bridge or of a port: packets go to the host
	// Static is set if somebody has made it: it may be wrong.
	Static bool
	VLAN   uint16
}

// FDB returns the port behind which a bridge knows an address; nil: it knows none, and floods.
func (h *Host) FDB(bridge int, mac []byte) (*FDB, error) {
	l, err := h.Link(bridge)
	if err != nil {
		return nil, err
	}
	if l.Bridge != nil && l.Bridge.VLANFiltering {
		if e, err := h.fdb(bridge, mac, l.Bridge.DefaultPVID); e != nil || err != nil {
			return e, err
		}
	}
	return h.fdb(bridge, mac, 0)
}

func (h *Host) fdb(bridge int, mac []byte, vlan uint16) (e *FDB, err error) {
	body := make([]byte, unix.SizeofNdMsg)
	body[0] = unix.AF_BRIDGE
	body = nlwire.AppendAttr(body, unix.NDA_LLADDR, mac...)
	body = appendU32(body, unix.NDA_MASTER, uint32(bridge))
	if vlan != 0 {
		body = nlwire.AppendAttr(body, unix.NDA_VLAN, binary.NativeEndian.AppendUint16(nil, vlan)...)
	}
	err = h.ask(unix.NETLINK_ROUTE, unix.RTM_GETNEIGH, 0, body, nil, func(m nlwire.Message) error {
		n, err := parseNeighbour(m)
		if err == nil {
			e = &FDB{Port: n.Link, Local: n.State&unix.NUD_PERMANENT != 0, Static: n.State&unix.NUD_NOARP != 0, VLAN: vlan}
		}
		return err
	})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV):
		return nil, nil
	case err != nil:
		return nil, h.note(fmt.Errorf("read forwarding database of %s: %w", h.linkName(bridge), err))
	}
	return e, nil
}
