#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: nft 1.0.6, iproute2 6.1.0, Linux 6.18
# Expected: `fib saddr . iif oif missing` asks whether there is a route to the sender by the interface that the packet came in by, as `ip route get ... oif` does
# Happens: for IPv4 the route is looked up without the interface, and its interface compared afterwards: a narrower route by another interface hides the one by this interface, and the packet counts as spoofed
#
# Seen: a packet from 192.0.2.2 by v0, which has 192.0.2.0/24; 192.0.2.2/32 is by v1: `missing` counts it, `ip route get 192.0.2.2 oif v0` finds the route by v0.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 iproute2=6.1.0-3
}

# send sends a datagram from 192.0.2.2 to v0 through new rules, and waits until they count it.
send() {
	nft -f - <<-'END'
		flush ruleset
		table ip t { chain c { type filter hook prerouting priority 0; udp dport 9 fib saddr . iif oif missing counter; udp dport 9 counter; }; }
	END
	local i
	for ((i = 0; i < 100; i++)); do
		ip netns exec n bash -c 'echo x >/dev/udp/192.0.2.1/9' || true
		sleep 0.1
		nft list chain ip t c | grep -q 'dport 9 counter packets 0' || break
	done
}

show() {
	nft --version
	mount -t tmpfs tmpfs /run
	ip netns add n
	local i
	for i in 0 1; do
		ip link add "v$i" type veth peer name "eth$i" netns n
		ip link set "v$i" up
		ip -n n link set "eth$i" up
		echo 0 >"/proc/sys/net/ipv4/conf/v$i/rp_filter"
	done
	echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter
	ip addr add 192.0.2.1/24 dev v0
	ip -n n addr add 192.0.2.2/24 dev eth0
	ip link set v0 address 02:00:00:00:00:01
	ip -n n neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev eth0
	send
	expect 'without the narrower route' 'missing counter packets 0' "$(nft list chain ip t c)"
	ip route add 192.0.2.2/32 dev v1
	expect 'ip route get' 'dev v0' "$(ip route get 192.0.2.2 oif v0)"
	send
	expect_not 'with it' 'missing counter packets 0' "$(nft list chain ip t c)"
}

run
