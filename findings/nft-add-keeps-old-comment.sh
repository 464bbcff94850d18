#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: nft 1.0.6, Linux 6.18
# Expected: `nft add element` of a key that is there, with another comment, changes the comment or fails
# Happens: exit status 0, and the old comment stays
#
# Seen: elements = { 80 comment "old" : 10.0.0.1 }.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
}

show() {
	nft --version
	nft add table inet t
	nft add map inet t m '{ type inet_service : ipv4_addr; }'
	nft add element inet t m '{ 80 comment "old" : 10.0.0.1 }'
	nft add element inet t m '{ 80 comment "new" : 10.0.0.1 }'
	echo "exit status of the second add: $?"
	expect 'nft list' 'elements = { 80 comment "old" : 10.0.0.1 }' "$(nft list map inet t m)"
}

run
