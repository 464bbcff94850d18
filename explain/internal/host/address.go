// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

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
func (a *Address) Why() string {
	switch {
	case a.Flags&unix.IFA_F_DADFAILED != 0:
		return "dadfailed: another host has it"
	case a.Flags&unix.IFA_F_TENTATIVE != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0:
		return "tentative"
	}
	return ""
}

// String returns it about as `ip address` prints it: "192.0.2.9/24 scope global secondary".
func (a *Address) String() string {
	var b strings.Builder
	if a.Peer.IsValid() {
		fmt.Fprintf(&b, "%s peer %s/%d", a.Prefix.Addr(), a.Peer, a.Prefix.Bits())
	} else {
		b.WriteString(a.Prefix.String())
	}
	switch a.Scope {
	case unix.RT_SCOPE_UNIVERSE:
		b.WriteString(" scope global")
	case unix.RT_SCOPE_SITE:
		b.WriteString(" scope site")
	case unix.RT_SCOPE_LINK:
		b.WriteString(" scope link")
	case unix.RT_SCOPE_HOST:
		b.WriteString(" scope host")
	default:
		fmt.Fprintf(&b, " scope %d", a.Scope)
	}
	for _, f := range [...]struct {
		flag uint32
		name string
	}{
		{unix.IFA_F_SECONDARY, "secondary"}, {unix.IFA_F_TENTATIVE, "tentative"}, {unix.IFA_F_DADFAILED, "dadfailed"},
		{unix.IFA_F_DEPRECATED, "deprecated"}, {unix.IFA_F_NOPREFIXROUTE, "noprefixroute"},
	} {
		if a.Flags&f.flag != 0 {
			b.WriteString(" " + f.name)
		}
	}
	return b.String()
}

// Addresses lists the addresses of all interfaces.
func (h *Host) Addresses() ([]*Address, error) { return h.addressesOf(0) }

// AddressesOf lists those of one.
func (h *Host) AddressesOf(link int) ([]*Address, error) {
	all, known := h.addresses[0]
	if !known {
		return h.addressesOf(link)
	}
	var of []*Address
	for _, a := range all {
		if a.Link == link {
			of = append(of, a)
		}
	}
	return of, nil
}

// Address returns the address of the host that equals addr, wherever it is; nil: there is none. Of
// several one that can be used comes first.
func (h *Host) Address(addr netip.Addr) (*Address, error) {
	all, err := h.Addresses()
	if err != nil {
		return nil, err
	}
	addr = addr.Unmap()
	var found *Address
	for _, a := range all {
		if a.Prefix.Addr() != addr.WithZone("") || addr.Zone() != "" && addr.Zone() != h.linkName(a.Link) {
			continue
		}
		if a.Why() == "" {
			return a, nil
		}
		found = cmp.Or(found, a)
	}
	return found, nil
}

// addressesOf lists those of one interface; zero: of all.
func (h *Host) addressesOf(link int) ([]*Address, error) {
	if list, known := h.addresses[link]; known {
		return list, nil
	}
	body := make([]byte, unix.SizeofIfAddrmsg)
	binary.NativeEndian.PutUint32(body[4:], uint32(link))
	list := []*Address{}
	err := h.ask(unix.NETLINK_ROUTE, unix.RTM_GETADDR, unix.NLM_F_DUMP, body, func() { list = list[:0] }, func(m nlwire.Message) error {
		a, err := parseAddress(m)
		if err == nil && a != nil && (link == 0 || a.Link == link) {
			list = append(list, a)
		}
		return err
	})
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return nil, h.note(fmt.Errorf("list addresses: %w", err))
	}
	h.addresses[link] = list
	return list, nil
}

// parseAddress reads an address; nil: one of a family that is not known here.
func parseAddress(m nlwire.Message) (*Address, error) {
	if len(m.Payload) < unix.SizeofIfAddrmsg {
		return nil, nlwire.ErrMalformed
	}
	b := m.Payload
	if b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return nil, nil
	}
	a := &Address{Flags: uint32(b[2]), Scope: b[3], Link: int(u32(b[4:]))}
	var local, address netip.Addr
	attrs := m.Attrs(unix.SizeofIfAddrmsg)
	for attrs.Next() {
		switch attrs.Type {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(attrs.Payload)
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(attrs.Payload)
		case unix.IFA_LABEL:
			a.Label = unix.ByteSliceToString(attrs.Payload)
		case unix.IFA_FLAGS:
			a.Flags = u32(attrs.Payload)
		}
	}
	// Of a point-to-point link IFA_ADDRESS is the other end.
	switch {
	case !local.IsValid():
		local = address
	case address.IsValid() && address != local:
		a.Peer = address
	}
	a.Prefix = netip.PrefixFrom(local, int(b[1]))
	a.Permanent = a.Flags&unix.IFA_F_PERMANENT != 0
	return a, attrs.Err
}
