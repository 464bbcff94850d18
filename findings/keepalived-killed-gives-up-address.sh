#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: keepalived 2.2.7
# Expected: if keepalived is killed with SIGKILL, nothing is left to clean up, and the shared address stays on the host
# Happens: only the parent dies; its VRRP process gets SIGTERM when the parent is gone (PR_SET_PDEATHSIG), removes the address and tells the peers to take over, as at an orderly stop
#
# Seen: 10.9.0.9 on v0 before, and gone after `kill -9` of the parent; one advertisement of priority 0; "Stopped" in the log.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb keepalived=1:2.2.7-1+b2 libnl-3-200 libnl-genl-3-200 libnftnl11 libmnl0 libsnmp40 libglib2.0-0 \
		nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 libjansson4
	cat >"$DIR/conf" <<-'END'
		vrrp_instance pair {
			state MASTER
			interface v0
			virtual_router_id 7
			priority 255
			virtual_ipaddress {
				10.9.0.9/24
			}
		}
	END
}

# await COMMAND... runs the command until it succeeds, for 20 seconds at most.
await() {
	local i
	for ((i = 0; i < 200; i++)); do
		! "$@" || return 0
		sleep 0.1
	done
}

shared() { [[ $(ip addr show v0) == *10.9.0.9* ]]; }
gone() { ! shared; }

show() {
	keepalived --version 2>&1 | sed -n 1p
	mount -t tmpfs tmpfs /run
	ip link add v0 type veth peer name v1
	ip addr add 10.9.0.1/24 dev v0
	ip link set v0 up
	ip link set v1 up
	# The priority is the third byte of a VRRP message.
	nft 'add table ip t; add chain ip t out { type filter hook output priority 0; }'
	nft 'add rule ip t out ip protocol vrrp @th,16,8 0 counter comment "priority 0"'
	keepalived --dont-fork --log-console --vrrp --use-file "$DIR/conf" >"$DIR/log" 2>&1 &
	local parent=$!
	await shared
	expect 'before' '10.9.0.9' "$(ip addr show v0)"
	expect 'nft list' 'packets 0' "$(nft list chain ip t out)"
	kill -9 $parent
	await gone
	expect_not 'after kill -9' '10.9.0.9' "$(ip addr show v0)"
	await grep -q 'Stopped$' "$DIR/log"
	expect 'log' 'Stopped' "$(tail -4 "$DIR/log")"
	expect 'nft list' 'packets 1' "$(nft list chain ip t out)"
}

run
