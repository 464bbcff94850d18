#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18
# Expected: connect() with AF_UNSPEC dissolves a TCP connection, after which the IPv6 socket connects to any address, as a new one does
# Happens: a socket that was connected to an IPv4-mapped address stays one of IPv4: a later connect to an IPv6 address is never answered; the other way round works
#
# Seen: mapped, then ::1: timed out; ::1, then mapped: connected.
. "$(dirname "$0")/lib.sh"

prepare() { :; }

show() {
	cat >"$DIR/reconnect.py" <<-'END'
		import ctypes, socket
		listener = socket.socket(socket.AF_INET6)
		listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
		listener.bind(("::", 9))
		listener.listen()
		for first, second in (("::ffff:127.0.0.1", "::1"), ("::1", "::ffff:127.0.0.1")):
		    s = socket.socket(socket.AF_INET6)
		    s.connect((first, 9))
		    assert ctypes.CDLL(None).connect(s.fileno(), bytes(16), 16) == 0  # AF_UNSPEC
		    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, bytes([3] + [0] * 15))
		    try:
		        s.connect((second, 9))
		        print(first, "then", second, "connected")
		    except OSError as e:
		        print(first, "then", second, type(e).__name__)
	END
	output=$(/usr/bin/python3 "$DIR/reconnect.py")
	expect 'mapped first' '::ffff:127.0.0.1 then ::1 BlockingIOError' "$output"
	expect 'IPv6 first' '::1 then ::ffff:127.0.0.1 connected' "$output"
}

run
