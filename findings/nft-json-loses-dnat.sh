#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: nft 1.0.6, iptables-nft 1.8.9
# Expected: the JSON listing of a rule has what the text listing has
# Happens: of a rule that iptables-nft made, the text shows where DNAT leads, and the JSON only that there is a DNAT
#
# Seen: text "dnat to 172.17.0.2:80", JSON {"xt": {"type": "target", "name": "DNAT"}}.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 iptables=1.8.9-2
}

show() {
	nft --version
	iptables-nft --version
	iptables-nft -t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
	expect 'nft list' 'dnat to 172.17.0.2:80' "$(nft list chain ip nat PREROUTING)"
	expect 'nft -j list' '{"xt": {"type": "target", "name": "DNAT"}}' "$(nft -j list chain ip nat PREROUTING)"
	expect_not 'nft -j list' '172.17.0.2' "$(nft -j list chain ip nat PREROUTING)"
}

run
