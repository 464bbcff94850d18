#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, nft 1.0.6
# Expected: what the host itself sends has no input interface, at output and at postrouting
# Happens: neighbour discovery of the host has one at postrouting: that by which it leaves. So a rule with `iifname` that is meant for what is forwarded matches it too
#
# Seen: solicitations at output: iif 0; at postrouting: iifname "v0". UDP at postrouting: iif 0.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 iproute2=6.1.0-3
}

show() {
	nft --version
	mount -t tmpfs tmpfs /run
	ip netns add n
	ip link add v0 type veth peer name v1 netns n
	ip addr add fd00::1/64 dev v0 nodad
	ip -n n addr add fd00::2/64 dev v1 nodad
	ip link set v0 up
	ip -n n link set v1 up
	nft -f - <<-'END'
		add table ip6 t
		add chain ip6 t out { type filter hook output priority 0; }
		add rule ip6 t out icmpv6 type nd-neighbor-solicit ip6 saddr fd00::1 iif 0 counter
		add chain ip6 t post { type filter hook postrouting priority 0; }
		add rule ip6 t post icmpv6 type nd-neighbor-solicit ip6 saddr fd00::1 iif 0 counter
		add rule ip6 t post icmpv6 type nd-neighbor-solicit ip6 saddr fd00::1 iifname "v0" counter
		add rule ip6 t post udp dport 9 iif 0 counter
	END
	local i
	for ((i = 0; i < 100; i++)); do
		! nft list chain ip6 t post | grep -q 'dport 9 .*packets [1-9]' || break
		bash -c 'echo x >/dev/udp/fd00::2/9' || true
		sleep 0.1
	done
	expect_not 'output' 'iif 0 counter packets 0' "$(nft list chain ip6 t out)"
	expect 'postrouting' 'ip6 saddr fd00::1 iif 0 counter packets 0' "$(nft list chain ip6 t post)"
	expect_not 'postrouting' 'iifname "v0" counter packets 0' "$(nft list chain ip6 t post)"
	expect_not 'postrouting' 'dport 9 iif 0 counter packets 0' "$(nft list chain ip6 t post)"
}

run
