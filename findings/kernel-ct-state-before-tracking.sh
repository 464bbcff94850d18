#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, nft 1.0.6
# Expected: in a chain of priority -300 (raw), before connections are looked up at -200, a rule with `ct state` matches no packet, as one with `ct status` or `ct mark`
# Happens: what has no connection yet is "invalid" there: `ct state invalid` matches whatever comes from outside or is sent, and neighbour discovery, which is "untracked" from -200 on
#
# Seen: over lo at -300: ct state invalid 1 packet, untracked 0, ct mark 0 and ct mark != 0 0; neighbour solicitations invalid at -300 and untracked at 0.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 iproute2=6.1.0-3
}

show() {
	nft --version
	nft -f - <<-'END'
		add table inet t
		add chain inet t raw { type filter hook output priority -300; }
		add rule inet t raw udp dport 9 ct state invalid counter
		add rule inet t raw udp dport 9 ct state { new, established, untracked } counter
		add rule inet t raw udp dport 9 ct mark 0 counter
		add rule inet t raw udp dport 9 ct mark != 0 counter
		add rule inet t raw icmpv6 type nd-neighbor-solicit ct state invalid counter
		add chain inet t filter { type filter hook output priority 0; }
		add rule inet t filter udp dport 9 ct state new counter
		add rule inet t filter icmpv6 type nd-neighbor-solicit ct state untracked counter
	END
	echo x >/dev/udp/127.0.0.1/9
	ip link add v0 type veth peer name v1
	ip addr add fd00::1/64 dev v0 nodad
	ip link set v0 up
	ip link set v1 up
	local i
	for ((i = 0; i < 100; i++)); do
		! nft list chain inet t filter | grep -q 'solicit .*packets [1-9]' || break
		bash -c 'echo x >/dev/udp/fd00::2/8' || true
		sleep 0.1
	done
	local raw filter
	raw=$(nft list chain inet t raw)
	filter=$(nft list chain inet t filter)
	expect 'a datagram at -300' 'dport 9 ct state invalid counter packets 1' "$raw"
	expect 'the same' 'untracked } counter packets 0' "$raw"
	expect 'the same' '0x00000000 counter packets 0' "$raw"
	expect 'the same' '!= 0x00000000 counter packets 0' "$raw"
	expect 'at 0' 'ct state new counter packets 1' "$filter"
	expect_not 'neighbour discovery at -300' 'solicit ct state invalid counter packets 0' "$raw"
	expect_not 'at 0' 'solicit ct state untracked counter packets 0' "$filter"
}

run
