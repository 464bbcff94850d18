#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18
# Expected: a UDP socket bound to the device lo (SO_BINDTODEVICE) can answer whatever it receives there, in both families
# Happens: what a client sends from another address of the host arrives by lo in both families; the answer is sent with IPv4, and with IPv6 the network is unreachable
#
# Seen: 192.0.2.1 answered; 2001:db8::1 received, Network is unreachable.
. "$(dirname "$0")/lib.sh"

prepare() { :; }

show() {
	ip link add v0 type veth peer name v1
	ip link set v0 up
	ip link set v1 up
	ip addr add 192.0.2.1/24 dev v0
	ip addr add 2001:db8::1/64 dev v0 nodad
	cat >"$DIR/answer.py" <<-'END'
		import socket
		for family, own, loopback, wild in ((socket.AF_INET, "192.0.2.1", "127.0.0.1", "0.0.0.0"), (socket.AF_INET6, "2001:db8::1", "::1", "::")):
		    server = socket.socket(family, socket.SOCK_DGRAM)
		    server.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
		    server.bind((wild, 4000))
		    client = socket.socket(family, socket.SOCK_DGRAM)
		    client.settimeout(2)
		    client.bind((own, 0))
		    client.sendto(b"ask", (loopback, 4000))
		    _, asked = server.recvfrom(9)
		    try:
		        server.sendto(b"answer", asked)
		        print(asked[0], "received,", client.recv(9).decode())
		    except OSError as e:
		        print(asked[0], "received,", e.strerror)
	END
	output=$(/usr/bin/python3 "$DIR/answer.py")
	expect 'IPv4' '192.0.2.1 received, answer' "$output"
	expect 'IPv6' '2001:db8::1 received, Network is unreachable' "$output"
}

run
