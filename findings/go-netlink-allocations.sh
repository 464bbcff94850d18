#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: github.com/mdlayher/netlink 1.11.2, github.com/vishvananda/netlink 1.3.1
# Expected: the library of sockets and attributes alone costs less for a plain request of rtnetlink than the one with objects for everything
# Happens: one RTM_GETLINK by Conn.Execute takes more than four times the allocations of NetlinkRequest.Execute on a kept socket, and half as long again: each datagram is looked at first (MSG_PEEK) and read into a buffer of its own
#
# Seen: 48 allocations and 16.3 µs, against 10 and 11.3 µs.
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/main.go" <<-'END'
		package main

		import (
			"encoding/binary"
			"fmt"
			"testing"

			"github.com/mdlayher/netlink"
			"github.com/vishvananda/netlink/nl"
			"golang.org/x/sys/unix"
		)

		func check(err error) {
			if err != nil {
				panic(err)
			}
		}

		func main() {
			c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
			check(err)
			request := make([]byte, unix.SizeofIfInfomsg)
			binary.NativeEndian.PutUint32(request[4:], 1)
			message := netlink.Message{Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request}, Data: request}
			plain := testing.AllocsPerRun(100, func() {
				_, err := c.Execute(message)
				check(err)
			})
			s, err := nl.GetNetlinkSocketAt(-1, -1, unix.NETLINK_ROUTE)
			check(err)
			kept := map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}
			objects := testing.AllocsPerRun(100, func() {
				r := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
				r.Sockets = kept
				m := nl.NewIfInfomsg(0)
				m.Index = 1
				r.AddData(m)
				_, err := r.Execute(unix.NETLINK_ROUTE, 0)
				check(err)
			})
			fmt.Printf("allocations: mdlayher %.0f, vishvananda %.0f, more than four times as many: %t\n", plain, objects, plain > 4*objects)
		}
	END
	module github.com/mdlayher/netlink@v1.11.2 github.com/vishvananda/netlink@v1.3.1
}

show() { expect 'one request with one answer' 'more than four times as many: true' "$("$DIR/main")"; }

run
