#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18
# Expected: sending a small UDP datagram never waits: one that cannot be delivered is dropped
# Happens: datagrams that wait for a neighbour's address count against the sender's buffer; some hundred to neighbours that do not answer fill it, and the next send, to whatever address, waits for seconds until they are given up
#
# Seen: the longest of 600 sends took 3.1 s; with a non-blocking socket none waited, and 344 failed with EAGAIN.
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/send.py" <<-'END'
		import socket, sys, time

		s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
		s.setblocking(sys.argv[1] == "blocking")
		longest, refused = 0, 0
		for i in range(600):
		    start = time.monotonic()
		    try:
		        s.sendto(b"x", (f"10.9.0.{2 + i % 200}", 9))
		    except BlockingIOError:
		        refused += 1
		    longest = max(longest, time.monotonic() - start)
		print("waited" if longest > 1 else "did not wait", f"longest {longest:.1f} s, refused", refused)
	END
}

show() {
	ip link add v0 type veth peer name v1
	ip addr add 10.9.0.1/24 dev v0
	ip link set v0 up
	ip link set v1 up
	expect '600 sends' 'waited longest' "$(python3 "$DIR/send.py" blocking)"
	sleep 4
	expect '600 sends of a non-blocking socket' 'did not wait' "$(python3 "$DIR/send.py" nonblocking)"
}

run
