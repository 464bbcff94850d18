#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, nft 1.0.6
# Expected: a chain with `hook ingress device a0` is refused if there is no a0, goes when a0 is deleted, and stays with it when it is renamed
# Happens: it belongs to the name (since Linux 6.16): it is accepted without the interface, outlives it, and takes hold of the next of that name; an interface that is renamed loses it, while the listing still says `device "a0"`
#
# Seen: 1 packet with the first a0, 2 with the next one; still 2 after it was renamed, and still `device "a0"`.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 iproute2=6.1.0-3
}

# send sends a datagram to the interface by way of its peer, and waits until it has come.
send() {
	local before
	before=$(<"/sys/class/net/$1/statistics/rx_packets")
	ip netns exec n bash -c 'echo x >/dev/udp/192.0.2.1/9'
	until (($(<"/sys/class/net/$1/statistics/rx_packets") > before)); do sleep 0.1; done
}

interface() {
	ip link add a0 type veth peer name a1 netns n
	ip addr add 192.0.2.1/24 dev a0
	ip link set a0 address 02:00:00:00:00:01 up
	ip -n n addr add 192.0.2.2/24 dev a1
	ip -n n link set a1 up
	ip -n n neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev a1
}

show() {
	nft --version
	mount -t tmpfs tmpfs /run
	mount -t sysfs sysfs /sys
	ip netns add n
	nft 'table netdev t { chain c { type filter hook ingress device a0 priority 0; udp dport 9 counter; }; }'
	interface
	send a0
	expect 'an interface that came later' 'counter packets 1' "$(nft list chain netdev t c)"
	ip link del a0
	interface
	send a0
	expect 'the next one' 'counter packets 2' "$(nft list chain netdev t c)"
	ip link set a0 name b0
	send b0
	expect 'renamed' 'counter packets 2' "$(nft list chain netdev t c)"
	expect 'renamed' 'device "a0"' "$(nft list chain netdev t c)"
}

run
