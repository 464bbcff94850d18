#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: systemd 252
# Expected: the system call group @ipc, "SysV IPC, POSIX Message Queues or other IPC", can be taken from a service that uses only sockets and pipes
# Happens: pipe and pipe2 are in it: `SystemCallFilter=~@ipc` makes every pipe fail, splice through pipes and shells included
#
# Seen: pipe and pipe2 in the list of systemd-analyze syscall-filter @ipc.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb systemd=252.39-1~deb12u2 libsystemd-shared=252.39-1~deb12u2
}

show() {
	LD_LIBRARY_PATH+=:$DIR/root/usr/lib/$(uname -m)-linux-gnu/systemd:$DIR/root/lib/systemd
	systemd-analyze --version | head -1
	expect 'systemd-analyze syscall-filter @ipc' $'\n    pipe\n    pipe2\n' "$(systemd-analyze syscall-filter @ipc)"
}

run
