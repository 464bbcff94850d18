#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: nft 1.0.6
# Expected: a ruleset that is saved and loaded as JSON (`nft -j list ruleset`, `nft -j -f`) is the one that text gives
# Happens: the time-outs of elements are whole seconds in JSON, and the rest of a second is dropped without a word
#
# Seen: "timeout": 97200 of an element with "timeout 1d3h500ms"; after `nft -j -f` its time-out is 1d3h, after `nft -f` 1d3h500ms.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
}

show() {
	nft --version
	nft add table inet t
	nft add set inet t s '{ type inet_service; timeout 1h; }'
	nft add element inet t s '{ 80 timeout 1d3h500ms }'
	nft list ruleset >"$DIR/text"
	nft -j list ruleset >"$DIR/json"
	expect 'saved as JSON' '"timeout": 97200,' "$(cat "$DIR/json")"
	nft flush ruleset
	nft -f "$DIR/text"
	expect 'loaded from text' 'timeout 1d3h500ms' "$(nft list ruleset)"
	nft flush ruleset
	nft -j -f "$DIR/json"
	expect 'loaded from JSON' 'timeout 1d3h expires' "$(nft list ruleset)"
}

run
