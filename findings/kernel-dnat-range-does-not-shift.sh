#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, nft 1.0.6
# Expected: `tcp dport 8000-8002 dnat to 127.0.0.1:9000-9002` sends 8001 to 9001
# Happens: every port goes to 9000, the first of the range: the kernel chooses a free port of it, and knows no offset
#
# Seen: 8000, 8001 and 8002 all answered by 9000.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 socat=1.7.4.4-2
}

show() {
	nft --version
	nft -f - <<-'END'
		add table ip t
		add chain ip t out { type nat hook output priority -100; }
		add rule ip t out tcp dport 8000-8002 dnat to 127.0.0.1:9000-9002
	END
	for port in 9000 9001 9002; do
		socat TCP-LISTEN:$port,fork SYSTEM:"echo $port" &
		until ss -Hltn "sport = :$port" | grep -q .; do sleep 0.1; done
	done
	for port in 8000 8001 8002; do
		expect "port $port" 9000 "$(socat -u TCP:127.0.0.1:$port -)"
	done
}

run
