#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18
# Expected: RTM_GETQDISC without NLM_F_DUMP is answered with that qdisc, as RTM_GETLINK with that link, and nobody else hears of it
# Happens: the one who asks gets only an acknowledgement, and an answer with NLM_F_ECHO alone; all listeners of the group RTNLGRP_TC get the answer each time, as a new qdisc
#
# Seen: plain: asker [ACK], listener [NEWQDISC]; with NLM_F_ECHO: asker [NEWQDISC, ACK], listener [NEWQDISC].
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/ask.py" <<-'END'
		import socket, struct

		RTM_NEWQDISC, RTM_GETQDISC, RTNLGRP_TC = 36, 38, 4
		NLM_F_REQUEST, NLM_F_ACK, NLM_F_ECHO = 1, 4, 8
		TC_H_ROOT = 0xFFFFFFFF
		names = {2: "ACK", RTM_NEWQDISC: "NEWQDISC"}

		def received(s):
		    kinds = []
		    while True:
		        try:
		            data = s.recv(65536)
		        except BlockingIOError:
		            return kinds
		        while data:
		            length, kind = struct.unpack_from("=IH", data)
		            kinds.append(names.get(kind, kind))
		            data = data[length + 3 & ~3:]

		def socket_of(groups):
		    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
		    s.bind((0, groups))
		    return s

		asker, listener = socket_of(0), socket_of(1 << RTNLGRP_TC - 1)
		index = socket.if_nametoindex("v0")
		for what, flags in ("plain", 0), ("echo", NLM_F_ECHO):
		    body = struct.pack("=BxxxiIII", 0, index, 0, TC_H_ROOT, 0)
		    asker.send(struct.pack("=IHHII", 16 + len(body), RTM_GETQDISC, flags | NLM_F_REQUEST | NLM_F_ACK, 1, 0) + body)
		    print(what, "asker", *received(asker), "listener", *received(listener))
	END
}

show() {
	ip link add v0 type veth peer name v1
	ip link set v1 up
	ip link set v0 up
	output=$(python3 "$DIR/ask.py")
	expect 'RTM_GETQDISC' 'plain asker ACK listener NEWQDISC' "$output"
	expect 'RTM_GETQDISC with NLM_F_ECHO' 'echo asker NEWQDISC ACK listener NEWQDISC' "$output"
}

run
