#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, nft 1.0.6
# Expected: a packet of the host that `dnat` at output sends to where no route leads passes all chains of output, and then routing drops it
# Happens: nat looks for the new route itself, and drops the packet if there is none: chains of a higher priority, with their counters and their policy, never see it
#
# Seen: counted at priority -101, and not at priority 0.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
}

show() {
	nft --version
	nft -f - <<-'END'
		add table ip t
		add chain ip t before { type filter hook output priority -101; }
		add rule ip t before udp dport 9 counter
		add chain ip t nat { type nat hook output priority -100; }
		add rule ip t nat udp dport 9 dnat to 198.51.100.1
		add chain ip t after { type filter hook output priority 0; }
		add rule ip t after udp dport 9 counter
	END
	bash -c 'echo x >/dev/udp/127.0.0.1/9' || true
	expect 'before nat' 'udp dport 9 counter packets 1' "$(nft list chain ip t before)"
	expect 'after nat' 'udp dport 9 counter packets 0' "$(nft list chain ip t after)"
}

run
