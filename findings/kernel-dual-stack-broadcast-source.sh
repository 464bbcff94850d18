#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18
# Expected: IPV6_PKTINFO of a dual-stack UDP socket has the address to answer from, for IPv4 as ipi_spec_dst of IP_PKTINFO has
# Happens: for a broadcast it has the broadcast address, and to answer from that fails; the same socket takes IP_PKTINFO as well, which has both
#
# Seen: IPV6_PKTINFO ::ffff:127.255.255.255; IP_PKTINFO spec_dst 127.0.0.1, addr 127.255.255.255; the answer from the first failed with "Network is unreachable", from the second arrived.
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/answer.py" <<-'END'
		import socket, struct
		from socket import IPPROTO_IP, IPPROTO_IPV6

		IP_PKTINFO, IPV6_RECVPKTINFO, IPV6_PKTINFO = 8, 49, 50
		server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
		server.setsockopt(IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
		server.setsockopt(IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
		server.setsockopt(IPPROTO_IP, IP_PKTINFO, 1)
		server.bind(("::", 9000))
		client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
		client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
		client.settimeout(5)
		client.sendto(b"x", ("127.255.255.255", 9000))
		_, control, _, peer = server.recvmsg(9, 200)
		for level, kind, data in control:
		    if (level, kind) == (IPPROTO_IPV6, IPV6_PKTINFO):
		        print("IPV6_PKTINFO", socket.inet_ntop(socket.AF_INET6, data[:16]))
		    else:
		        spec, addr = socket.inet_ntoa(data[4:8]), socket.inet_ntoa(data[8:])
		        print(f"IP_PKTINFO spec_dst {spec}, addr {addr}")
		    try:
		        server.sendmsg([b"y"], [(level, kind, data)], 0, peer)
		        print("answered from", client.recvfrom(9)[1][0])
		    except OSError as err:
		        print("failed:", err.strerror)
	END
}

show() {
	local output
	output=$(python3 "$DIR/answer.py")
	expect 'a dual-stack server, with both' 'IPV6_PKTINFO ::ffff:127.255.255.255
failed: ' "$output"
	expect 'the same' 'IP_PKTINFO spec_dst 127.0.0.1, addr 127.255.255.255
answered from 127.0.0.1' "$output"
}

run
