#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: iproute2 6.1.0, Linux 6.18
# Expected: `bridge fdb flush dev br0` forgets what was learned, as `ip neigh flush`, which leaves permanent entries
# Happens: without a filter it takes the bridge's own addresses as well; what is sent to the host on the bridge is then flooded to the other ports, and never delivered. ARP is still answered, so neighbour tables look well
#
# Seen: connection refused (delivered) before; no answer after, and `bridge fdb` without the bridge's address; `bridge fdb flush dev br0 dynamic` does no harm.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb iproute2=6.1.0-3
}

ask() { ip netns exec n timeout 3 bash -c 'echo >/dev/tcp/192.0.2.1/8080' 2>&1 || echo "exit status $?"; }

show() {
	bridge -Version
	mount -t tmpfs tmpfs /run
	ip netns add n
	ip link add br0 address 02:00:00:00:00:01 type bridge
	ip link add p0 type veth peer name eth0 netns n
	ip link set p0 master br0 up
	ip addr add 192.0.2.1/24 dev br0
	ip link set br0 up
	ip -n n addr add 192.0.2.2/24 dev eth0
	ip -n n link set eth0 up
	local i
	for ((i = 0; i < 100; i++)); do
		[[ $(ask) != *refused* ]] || break
		sleep 0.1
	done
	bridge fdb flush dev br0 dynamic
	expect 'only what was learned' 'refused' "$(ask)"
	bridge fdb flush dev br0
	expect_not 'bridge fdb' '02:00:00:00:00:01 dev br0' "$(bridge fdb show br br0)"
	ip -n n neigh flush dev eth0
	expect 'all' 'exit status 124' "$(ask)"
	expect 'the neighbour of the client' 'lladdr 02:00:00:00:00:01' "$(ip -n n neigh show 192.0.2.1)"
}

run
