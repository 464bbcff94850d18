#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18
# Expected: ru_maxrss of wait4(2) says how much memory the program has used that the child executed
# Happens: it is at least the peak of the process that started it: exec notes the memory that it replaces, and that is the parent's; /usr/bin/time is right only because it is small. VmHWM in /proc/PID/status is of the program alone
#
# Seen: programs of 2 MB (VmHWM) that a process of more than 200 MiB starts have more than 200 MiB, with posix_spawn and with fork; those of a small one do not.
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/spawn.py" <<-'END'
		import os, sys

		def used(what):
		    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "grep VmHWM /proc/self/status"], os.environ)
		    spawned = os.wait4(pid, 0)[2].ru_maxrss
		    pid = os.fork()
		    if pid == 0:
		        os.execv("/bin/true", ["true"])
		    forked = os.wait4(pid, 0)[2].ru_maxrss
		    print(what, "posix_spawn", spawned > 200 << 10, "fork", forked > 200 << 10, flush=True)

		used("small:")
		memory = bytearray(b"x") * (200 << 20)
		used("large:")
	END
}

show() {
	output=$(python3 "$DIR/spawn.py")
	expect 'more than 200 MiB, by ru_maxrss' 'small: posix_spawn False fork False' "$output"
	expect 'more than 200 MiB, by ru_maxrss' 'large: posix_spawn True fork True' "$output"
	[[ $(sed -n 's/VmHWM: *\t* *\([0-9]*\) kB/\1/p' <<<"$output" | sort -n | tail -1) -lt 100000 ]] || { echo 'CHANGED: VmHWM' >&2; exit 1; }
}

run
