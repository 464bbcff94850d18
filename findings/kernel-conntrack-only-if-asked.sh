#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, nft 1.0.6
# Expected: the kernel tracks connections wherever the module is loaded
# Happens: in a network namespace it tracks nothing until a rule there needs it
#
# Seen: 0 entries after a datagram without a rule, 1 with a rule that asks for ct state.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
}

show() {
	nft --version
	echo x >/dev/udp/127.0.0.1/9
	expect 'entries without a rule' 0 "$(cat /proc/sys/net/netfilter/nf_conntrack_count)"
	nft -f - <<-'END'
		add table ip t
		add chain ip t out { type filter hook output priority 0; }
		add rule ip t out ct state new
	END
	echo x >/dev/udp/127.0.0.1/9
	expect 'entries with a rule' 1 "$(cat /proc/sys/net/netfilter/nf_conntrack_count)"
}

run
