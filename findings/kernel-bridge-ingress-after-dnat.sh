#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, nft 1.0.6
# Expected: a chain at ingress of an interface sees packets as they came, before prerouting
# Happens: one at ingress of a bridge sees them after DNAT, if bridge-nf-call-iptables is 1: then prerouting has run at the bridge's port
#
# Seen: a datagram to port 9, which prerouting sends to port 10: bridge-nf-call-iptables=0 counts port 9, bridge-nf-call-iptables=1 counts port 10.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 iproute2=6.1.0-3
}

show() {
	nft --version
	mount -t tmpfs tmpfs /run
	ip netns add n
	ip link add br0 type bridge
	ip link add p0 type veth peer name eth0 netns n
	ip link set p0 master br0 up
	ip addr add 192.0.2.1/24 dev br0
	ip link set br0 up
	ip -n n addr add 192.0.2.2/24 dev eth0
	ip -n n link set eth0 up
	local call port i counted
	for call in 0 1; do
		port=$((9 + call))
		echo "$call" >/proc/sys/net/bridge/bridge-nf-call-iptables || exit 3
		nft -f - <<-'END'
			flush ruleset
			table ip t { chain c { type nat hook prerouting priority dstnat; udp dport 9 dnat to 192.0.2.1:10; }; }
			table netdev t {
				chain c { type filter hook ingress device br0 priority 0; udp dport 9 counter; udp dport 10 counter; }
			}
		END
		for ((i = 0; i < 100; i++)); do
			ip netns exec n bash -c 'echo x >/dev/udp/192.0.2.1/9'
			sleep 0.1
			counted=$(nft list chain netdev t c)
			[[ $counted == *'packets 0'*'packets 0'* ]] || break
		done
		expect_not "bridge-nf-call-iptables=$call" "udp dport $port counter packets 0" "$counted"
		expect "bridge-nf-call-iptables=$call" "udp dport $((19 - port)) counter packets 0" "$counted"
	done
}

run
