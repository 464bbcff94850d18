// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"fmt"
	"io/fs"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// Filter selects flows by their original direction: where the
// client sent its first packet. The zero Filter selects every flow.
type Filter struct {
	// Proto is the IANA protocol number. 0: any, which [Conn.Delete] refuses.
	Proto uint8
	// Dst is the original destination address. The zero Addr means any
	// address of both families (which may cost two passes over the table),
	// 0.0.0.0 any IPv4 address, :: any IPv6 address. An address must not have a zone.
	Dst netip.Addr
	// FirstPort and LastPort are the range of original destination ports. LastPort 0 means
	// FirstPort alone; both 0 mean any port, or none.
	FirstPort, LastPort uint16
	// Unanswered selects those alone of which no answer has been seen
	// (StatusSeenReply), such as TCP connections that are being opened.
	Unanswered bool
	// Translated selects those alone whose destination is translated (StatusDNAT).
	Translated bool
	// Src is the original source address, and SrcPort its port. The zero Addr means any
	// address, 0 any port, or none. The address must not have a zone.
	Src     netip.Addr
	SrcPort uint16
}

// String returns the filter as errors name it: "udp 0.0.0.0:53",
// "tcp [2001:db8::1]:8000-8009", with "*" for any; "unanswered" and "translated" are before it.
func (f Filter) String() string {
	proto, addr, port := "*", "*", "*"
	if f.Proto != 0 {
		proto = protoName(f.Proto)
	}
	if f.Dst.IsValid() {
		addr = f.Dst.String()
		if f.Dst.Is6() {
			addr = "[" + addr + "]"
		}
	}
	if f.FirstPort != 0 || f.LastPort != 0 {
		port = strconv.Itoa(int(f.FirstPort))
	}
	if f.LastPort != 0 && f.LastPort != f.FirstPort {
		port += "-" + strconv.Itoa(int(f.LastPort))
	}
	text := proto + " " + addr + ":" + port
	switch {
	case f.Src.IsValid() && f.SrcPort != 0:
		text += " from " + netip.AddrPortFrom(f.Src, f.SrcPort).String()
	case f.Src.IsValid():
		text += " from " + f.Src.String()
	case f.SrcPort != 0:
		text += " from port " + strconv.Itoa(int(f.SrcPort))
	}
	if f.Translated {
		text = "translated " + text
	}
	if f.Unanswered {
		text = "unanswered " + text
	}
	return text
}

// normal checks the filter and returns it with IPv4-mapped addresses unmapped
// and LastPort filled in.
func (f Filter) normal() (Filter, error) {
	if f.Dst.Zone() != "" || f.Src.Zone() != "" {
		return f, fmt.Errorf("address with a zone: %w", fs.ErrInvalid)
	}
	if f.FirstPort == 0 && f.LastPort != 0 {
		return f, fmt.Errorf("last port without a first: %w", fs.ErrInvalid)
	}
	if f.LastPort == 0 {
		f.LastPort = f.FirstPort
	}
	if f.LastPort < f.FirstPort {
		return f, fmt.Errorf("last port below the first: %w", fs.ErrInvalid)
	}
	f.Dst, f.Src = f.Dst.Unmap(), f.Src.Unmap()
	return f, nil
}

// family returns the address family of the filter, 0: any. AF_* and the kernel's NFPROTO_*
// have the same values.
func (f Filter) family() uint8 {
	switch {
	case f.Dst.Is4() || f.Src.Is4():
		return unix.AF_INET
	case f.Dst.Is6() || f.Src.Is6():
		return unix.AF_INET6
	}
	return unix.AF_UNSPEC
}

// exactDst reports whether the filter asks for one address.
func (f Filter) exactDst() bool { return f.Dst.IsValid() && !f.Dst.IsUnspecified() }

// exactPort reports whether the filter asks for one port.
func (f Filter) exactPort() bool { return f.FirstPort != 0 && f.FirstPort == f.LastPort }

// matches reports whether a flow passes the filter, which is normal.
func (f Filter) matches(t tuple, s Status) bool {
	if f.Unanswered && s&StatusSeenReply != 0 || f.Translated && s&StatusDNAT == 0 {
		return false
	}
	if f.Proto != 0 && t.proto != f.Proto {
		return false
	}
	if f.FirstPort != 0 && (t.dst.Port() < f.FirstPort || t.dst.Port() > f.LastPort) {
		return false
	}
	if f.SrcPort != 0 && t.src.Port() != f.SrcPort || f.Src.IsValid() && t.src.Addr() != f.Src {
		return false
	}
	switch dst := t.dst.Addr(); {
	case f.exactDst():
		return dst == f.Dst
	case f.Dst.IsValid():
		return dst.Is4() == f.Dst.Is4()
	}
	return true
}
