#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: nft 1.0.6, Linux 6.18
# Expected: `nft get element` of a key prints the element that a packet with that key finds
# Happens: not if that is the catch-all element `*`: then it is "No such file or directory", while a rule with that map uses it
#
# Seen: a datagram to port 9 marked 7 by `* : 7`; `get element ... { 9 }` fails, `{ * }` prints it.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
}

show() {
	nft --version
	nft -f - <<-'END'
		table ip t {
			map m { type inet_service : mark; elements = { 1 : 1, * : 7 }; }
			chain c {
				type filter hook output priority 0
				meta mark set udp dport map @m
				udp dport 9 meta mark 7 counter
			}
		}
	END
	echo x >/dev/udp/127.0.0.1/9
	expect 'a packet' 'counter packets 1' "$(nft list chain ip t c)"
	expect 'its key' 'No such file or directory' "$(nft 'get element ip t m { 9 }' 2>&1)"
	expect 'the catch-all element' '* : 0x00000007' "$(nft 'get element ip t m { * }' 2>&1)"
}

run
