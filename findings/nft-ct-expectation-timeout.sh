#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: nft 1.0.6, Linux 6.18
# Expected: `ct expectation` with `timeout 2m` expects for two minutes
# Happens: nft hands the kernel milliseconds, and the kernel takes them as seconds: it expects for 33 hours. The listing says `timeout 2m`
#
# Seen: 120000 (seconds) in /proc/net/nf_conntrack_expect.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
}

show() {
	nft --version
	nft -f - <<-'END'
		table ip t {
			ct expectation e { protocol udp; dport 9876; timeout 2m; size 12; l3proto ip; }
			chain c {
				type filter hook output priority 0
				udp dport 9 ct expectation set "e"
			}
		}
	END
	echo x >/dev/udp/127.0.0.1/9
	expect 'nft list' 'timeout 2m' "$(nft list ct expectation ip t e)"
	expect 'the expectation, its seconds first' 'dport=9876' "$(cat /proc/net/nf_conntrack_expect)"
	(($(awk '{print $1}' /proc/net/nf_conntrack_expect) > 100000)) || { echo 'CHANGED: the timeout' >&2; exit 1; }
}

run
