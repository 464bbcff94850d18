#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: github.com/vishvananda/netlink 1.3.1
# Expected: a Handle that NewHandleAt made for a network namespace sends every request there, or fails
# Happens: for a family that the handle was not made with, the request goes to the namespace of the calling thread, without an error
#
# Seen: IpsetCreate of NewHandleAt(other, NETLINK_ROUTE) returned nil, and the set is in the caller's namespace; with NewHandleAt(other), of all families, it is in the other.
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/main.go" <<-'END'
		package main

		import (
			"fmt"
			"os"

			"github.com/vishvananda/netlink"
			"github.com/vishvananda/netns"
			"golang.org/x/sys/unix"
		)

		func must[T any](value T, err error) T {
			if err != nil {
				panic(err)
			}
			return value
		}

		func main() {
			other := must(netns.GetFromPath(os.Args[1]))
			all := must(netlink.NewHandleAt(other))
			for name, h := range map[string]*netlink.Handle{
				"all":   all,
				"route": must(netlink.NewHandleAt(other, unix.NETLINK_ROUTE)),
			} {
				err := h.IpsetCreate(name, "hash:ip", netlink.IpsetCreateOptions{})
				fmt.Println(name, "error:", err)
			}
			for where, list := range map[string]func() ([]netlink.IPSetResult, error){"here": netlink.IpsetListAll, "there": all.IpsetListAll} {
				for _, set := range must(list()) {
					fmt.Println(where, set.SetName)
				}
			}
		}
	END
	module github.com/vishvananda/netlink@v1.3.1
}

show() {
	grep vishvananda/netlink "$DIR/go.mod"
	mount -t tmpfs tmpfs /run
	ip netns add other
	output=$("$DIR/main" /run/netns/other | sort)
	expect 'NewHandleAt(other)' 'there all' "$output"
	expect 'NewHandleAt(other, NETLINK_ROUTE)' 'route error: <nil>' "$output"
	expect 'the same' 'here route' "$output"
}

run
