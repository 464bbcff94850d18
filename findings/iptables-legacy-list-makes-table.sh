#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: iptables-legacy 1.8.9, Linux 6.18
# Expected: listing a table changes nothing
# Happens: `iptables-legacy -t nat -L` makes the table nat if it is not there, with its hooks
#
# Seen: /proc/net/ip_tables_names is empty before, and has "nat" after.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb iptables=1.8.9-2
}

show() {
	iptables-legacy --version
	expect_not 'tables before' nat "$(cat /proc/net/ip_tables_names)"
	iptables-legacy -t nat -L -n >/dev/null
	expect 'tables after' nat "$(cat /proc/net/ip_tables_names)"
}

run
