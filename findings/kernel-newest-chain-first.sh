#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, nft 1.0.6
# Expected: of two base chains with the same hook and priority, the older one sees packets first
# Happens: the newer one does
#
# Seen: the chain that was added second counts the packet before the first has marked it.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
}

show() {
	nft --version
	nft -f - <<-'END'
		add table ip older
		add chain ip older out { type filter hook output priority 0; }
		add rule ip older out ip protocol udp meta mark set 1
	END
	nft -f - <<-'END'
		add table ip newer
		add chain ip newer out { type filter hook output priority 0; }
		add rule ip newer out ip protocol udp meta mark 1 counter comment "after older"
		add rule ip newer out ip protocol udp meta mark 0 counter comment "before older"
	END
	echo x >/dev/udp/127.0.0.1/9
	expect 'nft list' 'counter packets 1 bytes 30 comment "before older"' "$(nft list chain ip newer out)"
}

run
