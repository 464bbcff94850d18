#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: iproute2 6.1.0, Linux 6.18
# Expected: `ip -6 route get fibmatch` prints the entry of the routing table that matches
# Happens: of routes that share a nexthop object, it prints the one that a look-up came to first, though its prefix does not contain the address
#
# Seen: fibmatch of fd02::5 prints "fd01::/64 nhid 1", and the other way round if fd02::5 was asked for first.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb iproute2=6.1.0-3
}

routes() {
	ip link add v0 type veth peer name v1
	ip addr add fd00::1/64 dev v0 nodad
	ip link set v1 up
	ip link set v0 up
	ip -6 nexthop add id 1 via fd00::2 dev v0
	ip -6 route add fd01::/64 nhid 1
	ip -6 route add fd02::/64 nhid 1
}

show() {
	ip -Version
	routes
	ip -6 route get fibmatch fd01::5 >/dev/null
	expect 'fd02::5, after fd01::5' 'fd01::/64 nhid 1' "$(ip -6 route get fibmatch fd02::5)"
	ip link del v0
	routes
	ip -6 route get fibmatch fd02::5 >/dev/null
	expect 'fd01::5, after fd02::5' 'fd02::/64 nhid 1' "$(ip -6 route get fibmatch fd01::5)"
}

run
