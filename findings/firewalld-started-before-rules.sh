#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: firewalld 1.3.3 (a unit of Type=dbus)
# Expected: `systemctl start firewalld` returns, and network-pre.target is reached, when the rules are in the kernel
# Happens: firewalld takes its name on the bus, by which systemd knows that it has started, before it loads a rule; the table comes later, on a busy machine by a second, and until then everything passes
#
# Seen: the name on the bus, and no table; after firewall-cmd --state, which waits, "table inet firewalld".
. "$(dirname "$0")/lib.sh"

prepare() { firewalld_deb; }

show() {
	firewalld_start
	until dbus-send --system --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.NameHasOwner \
		string:org.fedoraproject.FirewallD1 | grep -q true; do :; done
	expect_not 'nft list tables, when systemd would say "started"' firewalld "$(nft list tables)"
	firewall_cmd --version
	expect 'firewall-cmd --state' running "$(firewall_cmd --state)"
	expect 'nft list tables' 'table inet firewalld' "$(nft list tables)"
}

run
