#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, iproute2 6.1.0
# Expected: after `ss -K` of a connected UDP socket the next call on it fails with "Software caused connection abort" (ECONNABORTED), as for TCP
# Happens: that is what recv(2) says; send(2) says "Destination address required", because the socket is no longer connected, and that is looked at first
#
# Seen: send: EDESTADDRREQ, recv: ECONNABORTED, send again: EDESTADDRREQ. Needs root.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb iproute2=6.1.0-3
	cat >"$DIR/send.py" <<-'END'
		import errno, socket, subprocess

		s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
		s.connect(("127.0.0.1", 7000))
		subprocess.run(["ss", "-K", "-u", "dst", "127.0.0.1", "dport", "=", "7000"], check=True)

		def call(name, f, argument):
		    try:
		        f(argument)
		        print(name, "works")
		    except OSError as e:
		        print(name, errno.errorcode[e.errno])

		s.setblocking(False)
		call("send", s.send, b"x")
		call("recv", s.recv, 1)
		call("send", s.send, b"x")
	END
}

show() {
	ss -V
	output=$(python3 "$DIR/send.py")
	expect 'after ss -K' $'send EDESTADDRREQ\nrecv ECONNABORTED\nsend EDESTADDRREQ' "$output"
}

run
