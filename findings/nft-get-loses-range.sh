#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: nft 1.0.6
# Expected: `nft get element` of a port in a range prints the range, and finds the range by its own bounds
# Happens: a port prints the range's first port alone; the range as it was added is not found
#
# Seen: "elements = { 1000 : 10.0.0.1 }", and "No such file or directory" for 1000-1999.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
}

show() {
	nft --version
	nft add table inet t
	nft add map inet t m '{ type inet_service : ipv4_addr; flags interval; }'
	nft add element inet t m '{ 1000-1999 : 10.0.0.1 }'
	expect 'get { 1500 }' 'elements = { 1000 : 10.0.0.1 }' "$(nft get element inet t m '{ 1500 }')"
	expect 'get { 1000-1999 }' 'No such file or directory' "$(nft get element inet t m '{ 1000-1999 }' 2>&1)"
}

run
