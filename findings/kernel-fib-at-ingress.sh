#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, nft 1.0.6
# Expected: a chain with `hook ingress device` is the same hook in tables of the families netdev and inet, so a rule may do the same in both
# Happens: `fib` is accepted in the one of netdev, and refused in the one of inet with "Operation not supported"
#
# Seen: `fib daddr type local counter` counts in netdev; in inet "Could not process rule: Operation not supported".
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
}

show() {
	nft --version
	local family
	for family in netdev inet; do
		nft "table $family t { chain c { type filter hook ingress device lo priority 0; }; }"
	done
	nft add rule netdev t c udp dport 9 fib daddr type local counter
	echo x >/dev/udp/127.0.0.1/9
	expect 'netdev' 'fib daddr type local counter packets 1' "$(nft list chain netdev t c)"
	expect 'inet' 'Operation not supported' "$(nft add rule inet t c udp dport 9 fib daddr type local counter 2>&1)"
	nft add rule inet t c udp dport 9 counter
	expect 'inet, without fib' 'udp dport 9 counter' "$(nft list chain inet t c)"
}

run
