#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: iptables 1.8.9 (legacy and nft), Linux 6.18
# Expected: the types of `-m addrtype` exclude one another, and several are alternatives: the host's own address is LOCAL and not UNICAST, and `UNICAST,LOCAL` is either
# Happens: that is IPv4. In IPv6, UNICAST is what the address looks like and LOCAL what its route says, so that the host's own address is both; and `UNICAST,LOCAL` asks for both at once, which no other host's address is
#
# Seen: the host's own address: UNICAST 0 packets in IPv4, 1 in IPv6; a client's: UNICAST,LOCAL 1 packet in IPv4, 0 in IPv6.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb iptables=1.8.9-2 libxtables12=1.8.9-2 iproute2=6.1.0-3
}

show() {
	iptables-nft --version
	XTABLES_LIBDIR=$(echo "$DIR"/root/usr/lib/*/xtables)
	export XTABLES_LIBDIR
	mount -t tmpfs tmpfs /run
	ip netns add n
	ip link add v0 type veth peer name eth0 netns n
	ip addr add 192.0.2.1/24 dev v0
	ip addr add fd00::1/64 dev v0 nodad
	ip link set v0 up
	ip -n n addr add 192.0.2.2/24 dev eth0
	ip -n n addr add fd00::2/64 dev eth0 nodad
	ip -n n link set eth0 up
	local kind family
	for kind in legacy nft; do
		for family in '' 6; do
			"ip${family}tables-$kind" -A INPUT -p udp --dport 9 -m addrtype --dst-type UNICAST
			"ip${family}tables-$kind" -A INPUT -p udp --dport 9 -m addrtype --src-type UNICAST,LOCAL
			"ip${family}tables-$kind" -A INPUT -p udp --dport 9
		done
	done
	local i
	for ((i = 0; i < 100; i++)); do
		ip netns exec n bash -c 'echo x >/dev/udp/192.0.2.1/9; echo x >/dev/udp/fd00::1/9' || true
		sleep 0.1
		[[ $(iptables-nft -v -S INPUT)$(ip6tables-nft -v -S INPUT) == *'9 -c 0'* ]] || break
	done
	for kind in legacy nft; do
		expect "IPv4, $kind" '--dst-type UNICAST -c 0' "$("iptables-$kind" -v -S INPUT)"
		expect_not "IPv4, $kind" '--src-type UNICAST,LOCAL -c 0' "$("iptables-$kind" -v -S INPUT)"
		expect_not "IPv6, $kind" '--dst-type UNICAST -c 0' "$("ip6tables-$kind" -v -S INPUT)"
		expect "IPv6, $kind" '--src-type UNICAST,LOCAL -c 0' "$("ip6tables-$kind" -v -S INPUT)"
	done
}

run
