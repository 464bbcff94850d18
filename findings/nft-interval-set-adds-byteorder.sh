#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: nft 1.0.6
# Expected: nft compiles `meta l4proto . ip daddr . th dport @s` to the same expressions whether the set has intervals or not; to swap the bytes of a one-byte protocol would make no sense
# Happens: for a set with `flags interval` it adds a byteorder expression for the protocol, which does nothing; who writes rules by netlink and compares them with what a reload of the listing makes finds a difference
#
# Seen: "byteorder reg 1 = hton(reg 1, 2, 1)" after "meta load l4proto", for the set with intervals alone.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
}

show() {
	nft --version
	nft -f - <<-'END'
		add table ip t
		add set ip t plain { type inet_proto . ipv4_addr . inet_service; }
		add set ip t ranges { type inet_proto . ipv4_addr . inet_service; flags interval; }
		add chain ip t p
		add rule ip t p meta l4proto . ip daddr . th dport @plain
		add chain ip t r
		add rule ip t r meta l4proto . ip daddr . th dport @ranges
	END
	expect_not 'without intervals' 'byteorder' "$(nft --debug=netlink list chain ip t p)"
	expect 'with intervals' '[ meta load l4proto => reg 1 ]
  [ byteorder reg 1 = hton(reg 1, 2, 1) ]' "$(nft --debug=netlink list chain ip t r)"
}

run
