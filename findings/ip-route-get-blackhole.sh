#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: iproute2 6.1.0, Linux 6.18
# Expected: `ip route get` of an address behind a blackhole route shows that route, or says unreachable
# Happens: "Invalid argument", as for a bad request; `fibmatch` fails alike
#
# Seen: RTNETLINK answers: Invalid argument, exit status 2.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb iproute2=6.1.0-3
}

show() {
	ip -Version
	ip route add blackhole 192.0.2.0/24
	expect 'ip route get' 'Invalid argument' "$(ip route get 192.0.2.1 2>&1)"
	expect 'ip route get fibmatch' 'Invalid argument' "$(ip route get fibmatch 192.0.2.1 2>&1)"
}

run
