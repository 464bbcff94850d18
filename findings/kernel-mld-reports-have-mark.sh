#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, nft 1.0.6
# Expected: a packet that no rule and no socket has marked has `meta mark 0`
# Happens: the MLD reports that the kernel sends by itself pass output and postrouting with a mark: a field of the buffer that they are built in shares its memory with the mark
#
# Seen: ff02::16 . 0x000000d4, where nothing sets a mark.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
}

show() {
	nft --version
	nft -f - <<-'END'
		add table ip6 t
		add set ip6 t marked { type ipv6_addr . mark; flags dynamic; }
		add chain ip6 t post { type filter hook postrouting priority 0; }
		add rule ip6 t post meta mark != 0 add @marked { ip6 daddr . meta mark }
	END
	ip link add v0 type veth peer name v1
	ip link set v0 up
	ip link set v1 up
	local i
	for ((i = 0; i < 100; i++)); do
		! nft list set ip6 t marked | grep -q ff02::16 || break
		sleep 0.1
	done
	expect 'marked packets' 'ff02::16 . 0x' "$(nft list set ip6 t marked)"
}

run
