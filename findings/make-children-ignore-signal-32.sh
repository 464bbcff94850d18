#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: GNU make 4.3 with glibc 2.36
# Expected: a command in a makefile starts with the signal dispositions of make, and make ignores none
# Happens: it starts with signals 32 and 33 ignored: make uses posix_spawn(3), which leaves glibc's own two signals ignored in what it executes; all descendants inherit that, daemons included
#
# Seen: "SigIgn: 0000000180000000" in /proc/self/status of a command that make runs, and zeros in that of one that a shell runs.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb make=4.3-4.1
	printf 'all:\n\t@grep SigIgn /proc/self/status\n' >"$DIR/Makefile"
}

show() {
	make --version | head -1
	getconf GNU_LIBC_VERSION
	expect 'make, which runs the same command' 'SigIgn:	0000000180000000' "$(env --default-signal make -s -f "$DIR/Makefile")"
}

run
