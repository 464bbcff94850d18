#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, nft 1.0.6
# Expected: `iifname` at postrouting is the input interface (since Linux 5.7), for a frame from one port of a bridge to another (bridge-nf-call-iptables=1) as at prerouting: the bridge
# Happens: such frames have no input interface at postrouting: `iif` is 0, as for what the host itself sends; nft writes that only as `iif 0`, for it refuses the empty name
#
# Seen: prerouting iifname "br0" 1 packet; postrouting iifname "br0" 0 packets, iif 0 1 packet; iifname "" "Empty string is not allowed".
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 iproute2=6.1.0-3
}

show() {
	nft --version
	mount -t tmpfs tmpfs /run
	ip link add br0 type bridge
	ip link set br0 up
	local i
	for i in 2 3; do
		ip netns add "n$i"
		ip link add "p$i" type veth peer name eth0 netns "n$i"
		ip link set "p$i" master br0 up
		ip -n "n$i" addr add "172.30.0.$i/24" dev eth0
		ip -n "n$i" link set eth0 up
	done
	echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables || exit 3
	nft -f - <<-'END'
		add table ip t
		add chain ip t pre { type filter hook prerouting priority 0; }
		add rule ip t pre udp dport 9 iifname "br0" counter
		add chain ip t post { type filter hook postrouting priority 0; }
		add rule ip t post udp dport 9 iifname "br0" counter
		add rule ip t post udp dport 9 iif 0 counter
	END
	ip netns exec n3 bash -c 'echo x >/dev/udp/172.30.0.2/9'
	for ((i = 0; i < 100; i++)); do
		! nft list chain ip t post | grep -q 'packets 1' || break
		sleep 0.1
	done
	expect 'prerouting' 'iifname "br0" counter packets 1' "$(nft list chain ip t pre)"
	expect 'postrouting' 'iifname "br0" counter packets 0' "$(nft list chain ip t post)"
	expect 'postrouting' 'iif 0 counter packets 1' "$(nft list chain ip t post)"
	expect 'nft' 'Empty string is not allowed' "$(nft 'add rule ip t post iifname ""' 2>&1)"
}

run
