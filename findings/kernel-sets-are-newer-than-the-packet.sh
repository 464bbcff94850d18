#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, nft 1.0.6
# Expected: two sets of single keys that change in one transaction change together for each packet: it finds a key in both or in neither
# Happens: each look-up sees its set as it is at that moment; a packet on its way through a chain while the transaction commits finds the one set as it was before, and the other as it is after
#
# Seen: with 20,000 rules between the two look-ups, to make the way long, packets had found only one of them after 40 to 80 transactions under a flood.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
}

show() {
	nft --version
	{
		cat <<-END
			table inet t {
				set first { type inet_service; }
				set second { type inet_service; }
				chain out {
					type filter hook output priority 0;
					udp dport != 50000 accept
					udp dport @first meta mark set 1
		END
		for ((i = 0; i < 20000; i++)); do echo "ip daddr 192.0.2.$((i % 250))"; done
		cat <<-END
					meta mark 1 udp dport @second counter comment "both"
					meta mark 1 udp dport != @second counter comment "one"
					meta mark 0 udp dport @second counter comment "one"
				}
			}
		END
	} | nft -f -
	echo 'add element inet t first { 50000 }; add element inet t second { 50000 }' >"$DIR/add"
	echo 'delete element inet t first { 50000 }; delete element inet t second { 50000 }' >"$DIR/delete"
	python3 -c '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    try:
        s.sendto(b"x", ("127.0.0.1", 50000))
    except ConnectionRefusedError:
        pass' &
	local run counters
	for ((run = 1; run <= 2000; run++)); do
		nft -f "$DIR/add"
		nft -f "$DIR/delete"
		((run % 20 == 0)) || continue
		counters=$(nft list chain inet t out | grep counter)
		! grep -q 'packets [1-9].*"one"' <<<"$counters" || break
	done
	kill $!
	printf -- '-- after %d transactions\n%s\n' $((run * 2)) "$counters"
	expect 'packets that found one set' 'found' "$(sed -n 's/.*packets [1-9].*"one"/found/p' <<<"$counters")"
	expect 'packets that found both' 'found' "$(sed -n 's/.*packets [1-9].*"both"/found/p' <<<"$counters")"
}

run
