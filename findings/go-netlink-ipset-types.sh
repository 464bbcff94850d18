#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: github.com/vishvananda/netlink 1.3.1, ipset 7.17, Linux 6.18
# Expected: a set that IpsetCreate makes can be filled with IpsetAdd, and is one for ipset(8) as well
# Happens: a bitmap:port set can never be filled by IpsetAdd: without a Protocol the library refuses the port, and with one the kernel does. A list:set is made of the family IPv4, where ipset(8) gives it none, and ipset(8) can neither fill nor list it
#
# Seen: "invalid protocol" twice, while `ipset add` fills the set; "settype list:set with family inet ... does not support".
. "$(dirname "$0")/lib.sh"

prepare() {
	deb ipset=7.17-1 libipset13=7.17-1
	cat >"$DIR/main.go" <<-'END'
		package main

		import (
			"fmt"

			"github.com/vishvananda/netlink"
		)

		func main() {
			port, protocol := uint16(80), uint8(6)
			fmt.Println("bitmap:port:", netlink.IpsetCreate("ports", "bitmap:port", netlink.IpsetCreateOptions{PortFrom: 1, PortTo: 100}))
			fmt.Println("a port:", netlink.IpsetAdd("ports", &netlink.IPSetEntry{Port: &port}))
			fmt.Println("with a protocol:", netlink.IpsetAdd("ports", &netlink.IPSetEntry{Port: &port, Protocol: &protocol}))
			fmt.Println("list:set:", netlink.IpsetCreate("list", "list:set", netlink.IpsetCreateOptions{}))
		}
	END
	module github.com/vishvananda/netlink@v1.3.1
}

show() {
	grep vishvananda/netlink "$DIR/go.mod"
	ipset --version
	output=$("$DIR/main")
	expect 'bitmap:port' 'bitmap:port: <nil>
a port: invalid protocol
with a protocol: invalid protocol' "$output"
	ipset add ports 80
	expect 'ipset add' '80' "$(ipset list ports | tail -1)"
	expect 'ipset add' 'list:set with family inet' "$(ipset add list ports 2>&1)"
	expect 'ipset list' 'incompatible: settype list:set' "$(ipset list list 2>&1)"
}

run
