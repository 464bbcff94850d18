#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, nft 1.0.6
# Expected: deleting one port of a range fails, or leaves the rest of the range
# Happens: in a map of addresses and port ranges (address . ports), deleting one port deletes the whole range, with exit status 0; in a map of port ranges alone it fails
#
# Seen: after "delete element { 192.0.2.1 . 1500 }" the element 1000-1999 is gone.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
}

show() {
	nft --version
	nft add table inet t
	nft add set inet t both '{ type ipv4_addr . inet_service; flags interval; }'
	nft add set inet t ports '{ type inet_service; flags interval; }'
	nft add element inet t both '{ 192.0.2.1 . 1000-1999 }'
	nft add element inet t ports '{ 1000-1999 }'
	expect 'delete of a port in the set of ports' 'Error:' "$(nft delete element inet t ports '{ 1500 }' 2>&1)"
	nft delete element inet t both '{ 192.0.2.1 . 1500 }'
	expect_not 'the set of addresses and ports, after the delete of a port' '1000' "$(nft list set inet t both)"
}

run
