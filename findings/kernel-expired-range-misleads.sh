#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.1 of Debian 12, in qemu with AVX2
# Expected: in a map with `flags interval,timeout` of ports and addresses, a packet finds the element that has its port and address, and none where that has expired
# Happens: a packet for an expired element finds another: the one that has the first two bytes of the address as a port, if the rule before has left the address in the register behind the key; and the next packet of that processor, for whichever port, may find it too
#
# Seen: of 5 packets each, all 5 for the expired range and all 5 for another one got the mark of a third. On 6.1 the same happens for elements that are being deleted. Processors without AVX2 and Linux 6.18 are right.
. "$(dirname "$0")/lib.sh"

# The kernel of Debian 12, in a virtual machine: needs qemu-system-x86, busybox-static, cpio and kmod.
prepare() {
	cat >"$DIR/inside" <<-'END'
		#!/bin/bash
		echo "Linux $(</proc/sys/kernel/osrelease)"
		ip address add 10.99.0.1 dev lo
		nft -f - <<-RULES
			table inet t {
				map m {
					type inet_service . ipv4_addr : mark
					flags interval,timeout
					elements = { 2000-2999 . 10.99.0.1 : 1, 5000-5999 . 10.99.0.1 timeout 1s : 2, 8000-8999 . 10.99.0.1 : 3 }
				}
				set before { type inet_service . inet_proto . ipv4_addr; }
				chain out {
					type filter hook output priority 0
					meta mark set 0
					th dport . meta l4proto . ip daddr @before accept
					meta mark set udp dport . ip daddr map @m
					udp dport 5500 meta mark 1 counter comment "expired"
					udp dport 8500 meta mark 1 counter comment "other"
				}
			}
		RULES
		sleep 3
		for packet in {1..5}; do
			for port in 5500 8500; do echo >/dev/udp/10.99.0.1/$port; done
		done 2>/dev/null
		nft list chain inet t out
	END
	chmod +x "$DIR/inside"
	local run
	run=$(realpath "$(dirname "$0")/../integration/kernels/run")
	(cd "$DIR" && NFTNAT_KERNELS_CPUS=1 "$run" 6.1 ./inside >out) || exit 3
}

show() {
	expect 'the expired range' 'counter packets 5 bytes 145 comment "expired"' "$(cat "$DIR/out")"
	expect 'another range' 'counter packets 5 bytes 145 comment "other"' "$(cat "$DIR/out")"
}

run
