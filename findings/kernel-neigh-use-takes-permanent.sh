#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: iproute2 6.1.0, Linux 6.18
# Expected: `ip neigh replace ... use` does for an entry what a packet would do: it leaves a permanent one alone
# Happens: it takes the state PERMANENT and the link-layer address from the entry, which is resolved as any other from then on
#
# Seen: "lladdr 02:00:00:00:00:02 PERMANENT" after a packet, and "INCOMPLETE", without the address, after `use`.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb iproute2=6.1.0-3
}

show() {
	ip -Version
	ip link add v0 type veth peer name v1
	ip addr add 10.9.0.1/24 dev v0
	ip link set v0 up
	ip link set v1 up
	ip neigh replace 10.9.0.2 dev v0 lladdr 02:00:00:00:00:02 nud permanent
	echo x >/dev/udp/10.9.0.2/9
	expect 'ip neigh, after a packet' 'lladdr 02:00:00:00:00:02 PERMANENT' "$(ip neigh show 10.9.0.2)"
	ip neigh replace 10.9.0.2 dev v0 use
	expect_not 'ip neigh, after use' 'PERMANENT' "$(ip neigh show 10.9.0.2 nud all)"
}

run
