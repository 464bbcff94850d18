#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: dockerd 20.10.24, iptables 1.8.9
# Expected: dockerd sets the policy of the chain FORWARD to DROP, or never does
# Happens: it does so only where it turns IP forwarding on itself; where another program was first, the host goes on forwarding everything, so the order of two services decides
#
# Seen: -P FORWARD DROP from dockerd with ip_forward=0, and -P FORWARD ACCEPT from the same after a flush, with ip_forward=1.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb docker.io=20.10.24+dfsg1-1+deb12u1+b6 containerd runc libdevmapper1.02.1 libsystemd0 iptables
}

# start runs dockerd until its API answers, then ends it: the rules stay.
start() {
	dockerd --data-root "$DIR/data" --exec-root "$DIR/exec" --pidfile "$DIR/pid" --host "unix://$DIR/sock" \
		--storage-driver vfs >"$DIR/log" 2>&1 &
	local pid=$!
	until grep -q 'API listen' "$DIR/log"; do
		kill -0 $pid 2>/dev/null || { cat "$DIR/log" >&2; exit 3; }
		sleep 0.1
	done
	kill $pid
	wait $pid || true
}

show() {
	# Where it writes besides.
	mkdir "$DIR/upper" "$DIR/work"
	mount -t overlay overlay -o "lowerdir=/etc,upperdir=$DIR/upper,workdir=$DIR/work" /etc
	mount -t tmpfs tmpfs /run
	dockerd --version
	sysctl -qw net.ipv4.ip_forward=0
	start
	expect "iptables -S FORWARD, ip_forward was 0" '-P FORWARD DROP' "$(iptables -S FORWARD)"
	nft flush ruleset
	sysctl net.ipv4.ip_forward
	start
	expect "iptables -S FORWARD, ip_forward was 1" '-P FORWARD ACCEPT' "$(iptables -S FORWARD)"
}

run
