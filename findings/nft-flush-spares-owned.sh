#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: nft 1.0.6, Linux 6.18
# Expected: after a `nft flush ruleset` that exits 0 the ruleset is empty
# Happens: tables with the flag owner, of another process, stay; `flush ruleset` skips them without a word, while `delete table` fails
#
# Seen: exit status 0, then "table inet held"; "Operation not permitted" for the deletion.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
}

show() {
	nft --version
	# An interactive nft keeps its socket, and with it the table.
	mkfifo "$DIR/input"
	nft -i <"$DIR/input" >/dev/null &
	exec 3>"$DIR/input"
	echo 'add table inet held { flags owner; }' >&3
	until nft list tables | grep -q held; do sleep 0.1; done
	nft flush ruleset
	echo "exit status of flush ruleset: $?"
	expect 'nft list tables' 'table inet held' "$(nft list tables)"
	expect 'nft delete table' 'Operation not permitted' "$(nft delete table inet held 2>&1)"
	exec 3>&-
}

run
