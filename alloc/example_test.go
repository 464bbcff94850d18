// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc_test

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/nftnat/nftnat/alloc"
)

func Example() {
	// A network with a gateway, which is never leased.
	addrs, err := alloc.NewAddrs(netip.MustParsePrefix("192.0.2.0/30"), netip.MustParseAddr("192.0.2.1"))
	if err != nil {
		fmt.Println(err)
		return
	}
	addr, err := addrs.Next()
	fmt.Println(addr, err)
	_, err = addrs.Next()
	fmt.Println(err, errors.Is(err, alloc.ErrExhausted))

	// The TCP ports of a host, on all of its addresses.
	tcp, err := alloc.NewPorts(49153, 65535)
	if err != nil {
		fmt.Println(err)
		return
	}
	port, err := tcp.Next(netip.IPv4Unspecified())
	fmt.Println(port, err)
	// Output:
	// 192.0.2.2 <nil>
	// lease from 192.0.2.0/30: exhausted true
	// 49153 <nil>
}

// A released address comes last.
func ExampleAddrs_Release() {
	addrs, err := alloc.NewAddrs(netip.MustParsePrefix("2001:db8::/125"))
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 3 {
		if _, err := addrs.Next(); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(addrs.Release(netip.MustParseAddr("2001:db8::2")))
	for addr, err := addrs.Next(); err == nil; addr, err = addrs.Next() {
		fmt.Println(addr)
	}
	// Output:
	// true
	// 2001:db8::4
	// 2001:db8::5
	// 2001:db8::6
	// 2001:db8::7
	// 2001:db8::2
}

// The order of leases survives a restart by its cursor.
func ExampleAddrs_SetCursor() {
	prefix := netip.MustParsePrefix("192.0.2.0/24")
	before, err := alloc.NewAddrs(prefix)
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 3 {
		if _, err := before.Next(); err != nil {
			fmt.Println(err)
		}
	}
	before.Release(netip.MustParseAddr("192.0.2.1"))

	after, err := alloc.NewAddrs(prefix)
	if err != nil {
		fmt.Println(err)
		return
	}
	for addr := range before.Leases() {
		if err := after.Reserve(addr); err != nil {
			fmt.Println(err)
		}
	}
	if err := after.SetCursor(before.Cursor()); err != nil {
		fmt.Println(err)
	}
	fmt.Println(after.Next())
	// Output:
	// 192.0.2.4 <nil>
}

// An error names the existing reservation.
func ExampleInUseError() {
	udp, err := alloc.NewPorts(49153, 65535)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(udp.Reserve(netip.MustParseAddrPort("[::]:53")))
	err = udp.Reserve(netip.MustParseAddrPort("192.0.2.1:53"))
	fmt.Println(err)
	if held := new(alloc.InUseError); errors.As(err, &held) {
		fmt.Println(held.Have)
	}
	// Output:
	// <nil>
	// reserve 192.0.2.1:53: in use by [::]:53
	// [::]:53
}

// 0.0.0.0 and every IPv6 address do not conflict, like two sockets.
func ExampleIPv6Only() {
	tcp, err := alloc.NewPorts(49153, 65535)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(tcp.Reserve(netip.AddrPortFrom(netip.IPv4Unspecified(), 80)))
	fmt.Println(tcp.Reserve(netip.AddrPortFrom(alloc.IPv6Only(), 80)))
	fmt.Println(tcp.Reserve(netip.MustParseAddrPort("[2001:db8::1]:80")))
	// Output:
	// <nil>
	// <nil>
	// reserve [2001:db8::1]:80: in use by [::%ipv6only]:80
}
