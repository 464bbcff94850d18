#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, nft 1.0.6
# Expected: base chains of a hook run by their priority, those of type nat too: at output a filter chain of priority 0 sees a packet before a nat chain of priority 300
# Happens: all nat chains of a hook run together, at -100 (prerouting, output) or 100 (input, postrouting); their priority orders them only among each other. That one hook is as old as the family's first nat chain, and stays when tables are replaced: beside a filter chain of just that priority, the age of the tables says nothing
#
# Seen: the filter chain counts the translated port 10; at priority 100, a nat chain of a younger table sees the mark of a filter chain of an older one if it replaces a nat chain that is older still, and does not otherwise.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
}

show() {
	nft --version
	nft -f - <<-'END'
		add table ip t
		add chain ip t late { type filter hook output priority 0; }
		add rule ip t late udp dport 9 counter
		add rule ip t late udp dport 10 counter
		add chain ip t nat { type nat hook output priority 300; }
		add rule ip t nat udp dport 9 dnat to 127.0.0.1:10
	END
	echo x >/dev/udp/127.0.0.1/9
	expect 'priority 0, after priority 300' 'udp dport 9 counter packets 0' "$(nft list chain ip t late)"
	expect 'priority 0, after priority 300' 'udp dport 10 counter packets 1' "$(nft list chain ip t late)"

	local mark='table ip filter { chain c { type filter hook postrouting priority 100; ct state new meta mark set 1; }; }'
	local young='table ip young { chain c { type nat hook postrouting priority 100; meta mark 1 counter; }; }'
	nft flush ruleset
	nft "$mark"
	nft "$young"
	echo x >/dev/udp/127.0.0.1/11
	expect 'the youngest chain is the first' 'counter packets 0' "$(nft list table ip young)"
	nft flush ruleset
	nft 'table ip old { chain c { type nat hook postrouting priority 100; }; }'
	nft "$mark"
	printf '%s\n' 'delete table ip old' "$young" | nft -f -
	echo x >/dev/udp/127.0.0.1/12
	expect 'as it replaces an older one, it is not' 'counter packets 1' "$(nft list table ip young)"
}

run
