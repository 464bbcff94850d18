#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: iproute2 6.1.0, Linux 6.18
# Expected: a VXLAN interface that is moved to another network namespace takes its UDP port along
# Happens: the socket stays in the namespace where the interface was made: there the port is busy, with neither a process nor an interface to tell why, and where the interface is now any program can bind it
#
# Seen: "Address already in use" in the namespace without VXLAN, and "bound" in the one with it.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb iproute2=6.1.0-3
	cat >"$DIR/bind.py" <<-'END'
		import socket
		try:
		    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind(("0.0.0.0", 4789))
		    print("bound")
		except OSError as err:
		    print(err.strerror)
	END
}

show() {
	ip -Version
	mount -t tmpfs tmpfs /run
	ip netns add other
	expect 'bind before' 'bound' "$(python3 "$DIR/bind.py")"
	ip link add vx0 type vxlan id 5 dstport 4789
	ip link set vx0 netns other
	ip -n other link set vx0 up
	expect_not 'interfaces here' 'vx0' "$(ip -br link)"
	expect 'bind here' 'Address already in use' "$(python3 "$DIR/bind.py")"
	expect 'interfaces there' 'vx0' "$(ip -n other -br link)"
	expect 'bind there' 'bound' "$(ip netns exec other python3 "$DIR/bind.py")"
}

run
