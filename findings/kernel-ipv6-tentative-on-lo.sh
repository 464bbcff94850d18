#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18
# Expected: an IPv6 address that was added to lo can be bound to at once, because lo has no duplicate address detection
# Happens: it is tentative until a work queue has run, and bind fails with "Cannot assign requested address"; an address added with nodad can be bound to
#
# Seen: on a busy machine 926 of 1000 binds failed, with nodad none.
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/bind.py" <<-'END'
		import socket, struct

		NODAD = 0x02
		route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)

		def add(address, flags):
		    packed = socket.inet_pton(socket.AF_INET6, address)
		    body = struct.pack("=BBBBi", socket.AF_INET6, 128, flags, 0, 1)  # ifaddrmsg, on lo
		    for kind in (2, 1):  # IFA_LOCAL, IFA_ADDRESS
		        body += struct.pack("=HH", 20, kind) + packed
		    # RTM_NEWADDR, with NLM_F_REQUEST, ACK, CREATE and EXCL
		    route.send(struct.pack("=IHHII", 16 + len(body), 20, 0x605, 1, 0) + body)
		    assert struct.unpack("=i", route.recv(4096)[16:20])[0] == 0

		for name, flags in (("plain", 0), ("nodad", NODAD)):
		    failed = 0
		    for i in range(1000):
		        address = f"2001:db8:{flags}::{i + 1:x}"
		        add(address, flags)
		        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
		            try:
		                s.bind((address, 0))
		            except OSError as e:
		                failed, last = failed + 1, e
		    print(name, "failed" if failed else "none failed", failed, last if failed else "")
	END
}

show() {
	output=$(python3 "$DIR/bind.py")
	expect 'bind at once' 'plain failed' "$output"
	expect 'bind at once' 'Cannot assign requested address' "$output"
	expect 'bind at once' 'nodad none failed' "$output"
}

run
