#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, nft 1.0.6
# Expected: expired elements make room for new ones
# Happens: in an interval map that has a size, they count until the next change of that map commits; as a full map takes no change, it stays full for ever, though it lists as empty
#
# Seen: no elements listed, and "Too many open files in system" (ENFILE) for every add.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
}

show() {
	nft --version
	nft add table inet t
	nft add map inet t m '{ type inet_service : ipv4_addr; flags interval,timeout; size 2; }'
	nft add element inet t m '{ 10-19 timeout 1s : 10.0.0.1, 20-29 timeout 1s : 10.0.0.1 }'
	sleep 3
	expect_not 'nft list, 3 s later' 'elements' "$(nft list map inet t m)"
	expect 'nft add element' 'Too many open files in system' "$(nft add element inet t m '{ 30-39 : 10.0.0.1 }' 2>&1)"
	sleep 5
	expect 'nft add element, 5 s later' 'Too many open files in system' "$(nft add element inet t m '{ 30-39 : 10.0.0.1 }' 2>&1)"
	nft flush map inet t m
	nft add element inet t m '{ 30-39 : 10.0.0.1 }'
	expect 'after nft flush map' '30-39' "$(nft list map inet t m)"
}

run
