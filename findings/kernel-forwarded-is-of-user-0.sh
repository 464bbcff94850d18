#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: iproute2 6.1.0, Linux 6.18
# Expected: policy rules with `uidrange` are for what local processes send; what is forwarded is nobody's
# Happens: forwarded packets are looked up as root's: `uidrange 0-0` takes them. `ip route get ... iif` shows that for IPv4, while for IPv6 it asks as nobody, and says "routed" of what is dropped; with `uid 0` it is right
#
# Seen: IPv4 and IPv6 lost behind `uidrange 0-0 blackhole`; ip route get: "Invalid argument", ip -6 route get: "dev v2".
. "$(dirname "$0")/lib.sh"

prepare() {
	deb iproute2=6.1.0-3
}

# ask connects from behind v1 to a port behind v2 where nobody listens, by IPv4 and IPv6.
ask() {
	local to said
	for to in 10.2.0.2 fd02::2; do
		said=$(ip netns exec n1 timeout 3 bash -c "echo >/dev/tcp/$to/9" 2>&1 || true)
		[[ $said == *refused* ]] && echo refused || echo lost
	done
}

show() {
	ip -Version
	mount -t tmpfs tmpfs /run
	local i
	for i in 1 2; do
		ip netns add "n$i"
		ip link add "v$i" type veth peer name eth0 netns "n$i"
		ip addr add "10.$i.0.1/24" dev "v$i"
		ip addr add "fd0$i::1/64" dev "v$i" nodad
		ip link set "v$i" up
		ip -n "n$i" addr add "10.$i.0.2/24" dev eth0
		ip -n "n$i" addr add "fd0$i::2/64" dev eth0 nodad
		ip -n "n$i" link set eth0 up
		ip -n "n$i" route add default via "10.$i.0.1"
		ip -n "n$i" -6 route add default via "fd0$i::1"
	done
	echo 1 >/proc/sys/net/ipv4/ip_forward
	echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
	for ((i = 0; i < 30; i++)); do
		[[ $(ask) != $'refused\nrefused' ]] || break
	done
	expect 'before' $'refused\nrefused' "$(ask)"
	ip rule add uidrange 0-0 iif v1 blackhole
	ip -6 rule add uidrange 0-0 iif v1 blackhole
	expect 'with the rule' $'lost\nlost' "$(ask)"
	expect 'ip route get' 'Invalid argument' "$(ip route get 10.2.0.2 from 10.1.0.2 iif v1 2>&1)"
	expect 'ip -6 route get' 'dev v2' "$(ip -6 route get fd02::2 from fd01::2 iif v1 2>&1)"
	expect 'ip -6 route get ... uid 0' 'Invalid argument' "$(ip -6 route get fd02::2 from fd01::2 iif v1 uid 0 2>&1)"
}

run
