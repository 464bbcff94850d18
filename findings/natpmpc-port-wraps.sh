#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: natpmpc of libnatpmp 20150609
# Expected: a port above 65535 on the command line is refused
# Happens: it is cut to its low 16 bits without a word, so that another port is asked for, and the status is 0
#
# Seen: `natpmpc -a 70000 5000 udp 60` asks for port 4464.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb natpmpc=20150609-7.1+b2 libnatpmp1=20150609-7.1+b2
	cat >"$DIR/gateway.py" <<-'END'
		import socket, struct
		s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
		s.bind(('127.0.0.1', 5351))
		while True:
		    q, client = s.recvfrom(64)
		    if q[1] == 0:
		        s.sendto(b'\0\x80\0\0' + struct.pack('>I', 1) + socket.inet_aton('192.0.2.1'), client)
		        continue
		    _, _, _, internal, external, lifetime = struct.unpack('>BBHHHI', q)
		    s.sendto(struct.pack('>BBHIHHI', 0, 0x80 + q[1], 0, 1, internal, external, lifetime), client)
	END
}

show() {
	/usr/bin/python3 "$DIR/gateway.py" &
	until grep -q ':14E7 ' /proc/net/udp; do sleep 0.1; done
	expect "port 70000" "Mapped public port 4464 protocol UDP to local port 5000" "$(natpmpc -g 127.0.0.1 -a 70000 5000 udp 60)"
}

run
