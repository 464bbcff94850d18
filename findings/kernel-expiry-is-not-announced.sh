#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, nft 1.0.6
# Expected: `nft monitor` tells when an element of a set goes, because it was deleted or because its time is over
# Happens: an element that expires goes without an event: neither then nor when the kernel collects it; who follows a set by its events needs timers of its own
#
# Seen: of two elements the one that was deleted has an event, the one that expired has none, five seconds after it was last listed.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
}

show() {
	nft --version
	nft add table inet t
	nft add set inet t s '{ type inet_service; flags timeout; }'
	nft monitor >"$DIR/events" &
	until [[ -s $DIR/events ]]; do # until it listens
		nft add set inet t probe '{ type mark; }'
		nft delete set inet t probe
	done
	nft add element inet t s '{ 80 timeout 1s }'
	while [[ $(nft list set inet t s) == *80* ]]; do sleep 0.2; done
	sleep 5 # the kernel collects what has expired once a second
	nft add element inet t s '{ 81 timeout 1h }'
	nft delete element inet t s '{ 81 }'
	until grep -q 'delete element inet t s { 81' "$DIR/events"; do sleep 0.2; done
	kill $!
	output=$(grep element "$DIR/events")
	expect 'events' 'add element inet t s { 80' "$output"
	expect 'events' 'delete element inet t s { 81' "$output"
	expect_not 'events' 'delete element inet t s { 80' "$output"
}

run
