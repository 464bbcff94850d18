#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, iproute2 6.1.0, nft 1.0.6
# Expected: a policy of IPsec with `dir fwd` is looked up when a packet is forwarded, after DNAT: with the address that it is sent on to
# Happens: the kernel undoes the translation for that look-up: the policy matches the address that the client has called, and one for the address behind DNAT does not match
#
# Seen: 192.0.2.1 translated to 10.2.0.2: connected to with `dst 10.2.0.2/32 dir fwd action block`, lost with `dst 192.0.2.1/32 dir fwd action block`.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 iproute2=6.1.0-3
}

# ask connects to a port where nobody listens: refused, if the packets arrive.
ask() {
	local said
	said=$(ip netns exec n1 timeout 3 bash -c 'echo >/dev/tcp/192.0.2.1/9' 2>&1 || true)
	[[ $said == *refused* ]] && echo refused || echo lost
}

show() {
	ip -Version
	nft --version
	mount -t tmpfs tmpfs /run
	local i
	for i in 1 2; do
		ip netns add "n$i"
		ip link add "v$i" type veth peer name eth0 netns "n$i"
		ip addr add "10.$i.0.1/24" dev "v$i"
		ip link set "v$i" up
		ip -n "n$i" addr add "10.$i.0.2/24" dev eth0
		ip -n "n$i" link set eth0 up
		ip -n "n$i" route add default via "10.$i.0.1"
	done
	ip addr add 192.0.2.1/32 dev v1
	echo 1 >/proc/sys/net/ipv4/ip_forward
	nft 'table ip t { chain c { type nat hook prerouting priority dstnat; ip daddr 192.0.2.1 dnat to 10.2.0.2; }; }'
	for ((i = 0; i < 30; i++)); do
		[[ $(ask) != refused ]] || break
	done
	expect 'without a policy' 'refused' "$(ask)"
	ip xfrm policy add src 0.0.0.0/0 dst 10.2.0.2/32 dir fwd action block
	expect 'a policy for the address behind DNAT' 'refused' "$(ask)"
	ip xfrm policy flush
	ip xfrm policy add src 0.0.0.0/0 dst 192.0.2.1/32 dir fwd action block
	expect 'a policy for the address that is called' 'lost' "$(ask)"
}

run
