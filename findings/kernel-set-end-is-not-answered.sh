#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, nft 1.0.6
# Expected: NFT_MSG_GETSETELEM of one element is answered with that element, or with an error if there is none
# Happens: asked for the end of a range that reaches up to 65535, which has none, the kernel answers nothing at all; NLM_F_ACK has to be set for there to be an answer, and that says 0
#
# Seen: range 1000-1999: an element; 3000-65535: nothing before the answer to the next request; with NLM_F_ACK: 0.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
	cat >"$DIR/ask.py" <<-'END'
		import socket, struct

		NFT_MSG_GETSETELEM, NFT_MSG_GETGEN = 10 << 8 | 13, 10 << 8 | 16
		NLM_F_REQUEST, NLM_F_ACK, NLMSG_ERROR, NESTED = 1, 4, 2, 1 << 15
		NETLINK_NETFILTER = 12

		def attribute(kind, value):
		    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)

		def end(port):
		    key = attribute(1 | NESTED, attribute(1, struct.pack(">H", port)))
		    flags = attribute(3, struct.pack(">I", 1))  # NFT_SET_ELEM_INTERVAL_END
		    elements = attribute(3 | NESTED, attribute(1 | NESTED, key + flags))
		    return attribute(1, b"t\0") + attribute(2, b"s\0") + elements

		def send(kind, flags, body):
		    header = struct.pack("=IHHII", 20 + len(body), kind, NLM_F_REQUEST | flags, 0, 0)
		    s.send(header + b"\1\0\0\0" + body)

		s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
		s.bind((0, 0))
		for what, port, flags in (("1000-1999:", 1500, 0), ("3000-65535:", 4000, 0), ("3000-65535, NLM_F_ACK:", 4000, NLM_F_ACK)):
		    send(NFT_MSG_GETSETELEM, flags, end(port))
		    send(NFT_MSG_GETGEN, 0, b"")  # is always answered
		    answers = []
		    while "generation" not in answers:
		        data = s.recv(65536)
		        kind = struct.unpack_from("=IH", data)[1]
		        if kind == NLMSG_ERROR:
		            answers.append("error %d" % struct.unpack_from("=i", data, 16))
		        else:
		            answers.append({10 << 8 | 12: "element", 10 << 8 | 15: "generation"}[kind])
		    print(what, *answers)
	END
}

show() {
	nft add table inet t
	nft add set inet t s '{ type inet_service; flags interval; }'
	nft add element inet t s '{ 1000-1999, 3000-65535 }'
	output=$(timeout 60 python3 "$DIR/ask.py")
	expect 'a range with an end' '1000-1999: element generation' "$output"
	expect 'one without' '3000-65535: generation' "$output"
	expect 'the same' '3000-65535, NLM_F_ACK: error 0 generation' "$output"
}

run
