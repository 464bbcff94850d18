// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Device is a network device with its addresses.
type Device struct {
	Name  string
	Index int
	// Up is whether it is set up; it may have no carrier.
	Up bool
	// Addrs are its addresses, each with the length of its prefix, as the kernel lists them.
	Addrs []netip.Prefix
	// Since is for each of Addrs when it was added, in seconds since the host was started
	// (CLOCK_BOOTTIME in clock_gettime(2)).
	Since []int64

	onLink []netip.Prefix // those of Addrs, or of their peers
}

// Addr4 returns the first IPv4 address. The zero address: there is none.
func (d *Device) Addr4() netip.Addr { return d.first(netip.Addr.Is4) }

// Link6 returns the link-local IPv6 address, with the device as its zone. The zero address: there is none.
func (d *Device) Link6() netip.Addr {
	return d.first(func(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }).WithZone(d.Name)
}

func (d *Device) first(is func(netip.Addr) bool) netip.Addr {
	i := slices.IndexFunc(d.Addrs, func(p netip.Prefix) bool { return is(p.Addr()) })
	if i < 0 {
		return netip.Addr{}
	}
	return d.Addrs[i].Addr()
}

// Has reports whether an address is one of the device's.
func (d *Device) Has(a netip.Addr) bool {
	a = a.WithZone("")
	return slices.ContainsFunc(d.Addrs, func(p netip.Prefix) bool { return p.Addr() == a })
}

// OnLink reports whether an address is one of a host on the link of the device, and not the device's own.
func (d *Device) OnLink(a netip.Addr) bool {
	a = a.WithZone("")
	if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || d.Has(a) {
		return false
	}
	if a.Is6() && a.IsLinkLocalUnicast() {
		return true
	}
	return slices.ContainsFunc(d.onLink, func(p netip.Prefix) bool {
		return p.Contains(a) && !isEnd(p, a)
	})
}

// isEnd reports whether an address is the first or the last of an IPv4 prefix, which no host has (RFC 1122 section
// 3.2.1.3), but for prefixes of two addresses (RFC 3021).
func isEnd(p netip.Prefix, a netip.Addr) bool {
	if !a.Is4() || p.Bits() >= 31 {
		return false
	}
	b := a.As4()
	host := binary.BigEndian.Uint32(b[:]) << p.Bits()
	return host == 0 || host == ^uint32(0)<<p.Bits()
}

// read returns the devices of some names that there are.
func read(names []string) (map[string]*Device, error) {
	devices, byIndex := map[string]*Device{}, map[uint32]*Device{}
	for _, name := range names {
		if i, err := net.InterfaceByName(name); err == nil {
			d := &Device{Name: name, Index: i.Index, Up: i.Flags&net.FlagUp != 0}
			devices[name], byIndex[uint32(i.Index)] = d, d
		}
	}
	if err := readAddrs(byIndex); err != nil {
		return nil, fmt.Errorf("read addresses: %w", err)
	}
	return devices, nil
}

// readAddrs adds the addresses to devices.
func readAddrs(devices map[uint32]*Device) error {
	table, err := syscall.NetlinkRIB(unix.RTM_GETADDR, unix.AF_UNSPEC)
	if err != nil {
		return err
	}
	messages, err := syscall.ParseNetlinkMessage(table)
	if err != nil {
		return err
	}
	asleep := boottime() - monotonic()
	for i := range messages {
		m := &messages[i]
		if m.Header.Type != unix.RTM_NEWADDR || len(m.Data) < unix.SizeofIfAddrmsg {
			continue
		}
		d := devices[binary.NativeEndian.Uint32(m.Data[4:])]
		if d == nil {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil {
			return err
		}
		d.add(int(m.Data[1]), attrs, asleep)
	}
	return nil
}

// add adds the address that a message is about (rtnetlink(7)).
func (d *Device) add(bits int, attrs []syscall.NetlinkRouteAttr, asleep int64) {
	var local, peer netip.Addr
	var since int64
	flags := uint32(0)
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(a.Value)
		case unix.IFA_ADDRESS:
			peer, _ = netip.AddrFromSlice(a.Value)
		case unix.IFA_FLAGS:
			if len(a.Value) >= 4 {
				flags = binary.NativeEndian.Uint32(a.Value)
			}
		case unix.IFA_CACHEINFO:
			if len(a.Value) >= 12 { // preferred, valid, created, updated
				since = int64(binary.NativeEndian.Uint32(a.Value[8:]))/100 + asleep
			}
		}
	}
	if !local.IsValid() {
		local = peer
	}
	if !local.IsValid() || flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
		return
	}
	d.Addrs = append(d.Addrs, netip.PrefixFrom(local, bits))
	d.Since = append(d.Since, since)
	if peer.IsValid() {
		d.onLink = append(d.onLink, netip.PrefixFrom(peer, bits).Masked())
	}
}

func boottime() int64  { return seconds(unix.CLOCK_BOOTTIME) }
func monotonic() int64 { return seconds(unix.CLOCK_MONOTONIC) }

func seconds(clock int32) int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(clock, &t) // every kernel has it
	sec, _ := t.Unix()
	return sec
}

// equal reports whether two devices are the same, but for when addresses were added.
func (d *Device) equal(o *Device) bool {
	return o != nil && d.Index == o.Index && d.Up == o.Up && slices.Equal(d.Addrs, o.Addrs) && slices.Equal(d.onLink, o.onLink)
}
