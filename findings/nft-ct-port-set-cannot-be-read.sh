#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: nft 1.0.6
# Expected: what `nft list ruleset` prints, `nft -f` reads
# Happens: ports of `ct ... proto-src` and `proto-dst` in a set of the rule are listed as numbers with "[invalid type]", which is a syntax error; alone, or in a range, they are listed well
#
# Seen: "ct reply proto-src { 0x1 [invalid type], 0x2 [invalid type] }", then "syntax error, unexpected '['".
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
}

show() {
	nft --version
	nft 'add table ip t; add chain ip t c; add rule ip t c meta l4proto tcp ct reply proto-src { 1, 2 } accept'
	expect 'a set' '{ 0x1 [invalid type], 0x2 [invalid type] } accept' "$(nft list chain ip t c)"
	nft list ruleset >"$DIR/saved"
	expect 'reading it' "syntax error, unexpected '['" "$(nft -c -f "$DIR/saved" 2>&1)"
	nft 'flush chain ip t c; add rule ip t c meta l4proto tcp ct reply proto-src 1 accept'
	expect 'one port' 'ct reply proto-src 1 accept' "$(nft list chain ip t c)"
}

run
