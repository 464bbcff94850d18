#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: nft 1.0.6, iptables 1.8.9
# Expected: the conditions of a rule hold together: `udp sport != 67 udp dport != 68` matches no packet that has one of these ports
# Happens: nft and iptables-nft make one comparison of the two ports together, which holds if either differs; both list the rule as it was written, and only the bytecode shows it. iptables-legacy does what is written
#
# Seen: of a datagram from port 67 to port 99, nft counts 1 packet, iptables-nft 1, iptables-legacy 0; "cmp neq reg 1 0x44004300".
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 iptables=1.8.9-2 libxtables12=1.8.9-2
}

show() {
	nft --version
	XTABLES_LIBDIR=$(echo "$DIR"/root/usr/lib/*/xtables)
	export XTABLES_LIBDIR
	local program
	for program in iptables-nft iptables-legacy; do
		"$program" --version
		"$program" -A INPUT -p udp ! --sport 67 ! --dport 68
	done
	nft 'table ip t { chain c { type filter hook input priority 0; udp sport != 67 udp dport != 68 counter; }; }'
	python3 -c 'import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.1", 67))
s.sendto(b"x", ("127.0.0.1", 99))'
	expect 'nft' 'udp sport != 67 udp dport != 68 counter packets 1' "$(nft list chain ip t c)"
	expect 'its bytecode' 'cmp neq reg 1 0x44004300' "$(nft --debug=netlink list chain ip t c)"
	expect 'iptables-nft' '-p udp -m udp ! --sport 67 ! --dport 68 -c 1 ' "$(iptables-nft -v -S INPUT) "
	expect 'iptables-legacy' '-p udp -m udp ! --sport 67 ! --dport 68 -c 0 ' "$(iptables-legacy -v -S INPUT) "
}

run
