#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: iproute2 6.1.0, Linux 6.18
# Expected: `bridge link set dev p0 state 4` blocks the port, or fails
# Happens: on a bridge without STP it exits 0, and the port is forwarding; `state 0` (disabled) works
#
# Seen: "state forwarding" after state 4; "state disabled" after state 0.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb iproute2=6.1.0-3
}

show() {
	bridge -Version
	ip link add br0 type bridge
	ip link add p0 type veth peer name p1
	ip link set p0 master br0 up
	ip link set p1 up
	ip link set br0 up
	local i
	for ((i = 0; i < 100; i++)); do
		[[ $(bridge link show dev p0) != *'state forwarding'* ]] || break
		sleep 0.1
	done
	bridge link set dev p0 state 4
	expect 'state 4, blocking' 'state forwarding' "$(bridge link show dev p0)"
	bridge link set dev p0 state 0
	expect 'state 0, disabled' 'state disabled' "$(bridge link show dev p0)"
}

run
