#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, iptables-legacy 1.8.9
# Expected: CAP_NET_ADMIN, which reads and changes all tables of iptables-legacy, is enough to learn which there are
# Happens: /proc/net/ip_tables_names has the mode 0440 and belongs to root, whatever the capabilities. A service with its own user and CAP_NET_ADMIN can only ask for a table by name, which makes that table
#
# Seen: user 65534 with CAP_NET_ADMIN: iptables-save of the table filter works, and ip_tables_names is "Permission denied". Needs root.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb iptables=1.8.9-2
}

# service runs a command as user 65534 with CAP_NET_ADMIN and CAP_NET_RAW.
service() {
	setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps +net_admin,+net_raw --ambient-caps +net_admin,+net_raw "$@" 2>&1 || true
}

show() {
	chmod 755 "$DIR"
	mkdir -m 777 "$DIR/locks"
	iptables-legacy --version
	export XTABLES_LOCKFILE="$DIR/locks/root"
	iptables-legacy -N shown
	export XTABLES_LOCKFILE="$DIR/locks/service"
	expect 'the names, for root' 'filter' "$(cat /proc/net/ip_tables_names)"
	expect 'the rules, for the service' '-N shown' "$(service iptables-legacy -S)"
	expect 'the names, for the service' 'Permission denied' "$(service cat /proc/net/ip_tables_names)"
}

run
