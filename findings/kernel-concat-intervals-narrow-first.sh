#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, nft 1.0.6
# Expected: whether a set of concatenated intervals takes two elements, one within the other, does not depend on their order
# Happens: it takes the narrower one first and the wider one after it; the other way round, and in one command as well, it is "File exists"
#
# Seen: 10.1.0.0/16 then 10.0.0.0/8, both added; 10.0.0.0/8 then 10.1.0.0/16, "File exists".
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
}

show() {
	nft --version
	local set
	nft add table ip t
	for set in narrow wide both; do nft "add set ip t $set { type inet_service . ipv4_addr; flags interval; }"; done
	nft 'add element ip t narrow { 80 . 10.1.0.0/16 }'
	nft 'add element ip t narrow { 80 . 10.0.0.0/8 }'
	expect 'the narrower one first' '80 . 10.0.0.0/8' "$(nft list set ip t narrow)"
	nft 'add element ip t wide { 80 . 10.0.0.0/8 }'
	expect 'the wider one first' 'File exists' "$(nft 'add element ip t wide { 80 . 10.1.0.0/16 }' 2>&1)"
	expect 'the same, in one command' 'File exists' \
		"$(nft 'add element ip t both { 80 . 10.0.0.0/8, 80 . 10.1.0.0/16 }' 2>&1)"
	nft 'add element ip t both { 80 . 10.1.0.0/16, 80 . 10.0.0.0/8 }'
	expect 'one command, the narrower one first' '80 . 10.0.0.0/8' "$(nft list set ip t both)"
}

run
