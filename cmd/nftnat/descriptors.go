// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// raiseFileLimit makes room for a socket a port: to the hard limit, and, with the
// privilege, that to fs.nr_open. What is not to be had is said when a port cannot be
// bound for it.
func raiseFileLimit() {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return
	}
	if text, err := os.ReadFile("/proc/sys/fs/nr_open"); err == nil {
		if most, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil && most > limit.Max {
			if unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: most}) == nil {
				return
			}
		}
	}
	limit.Cur = limit.Max
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
}

// roomFor is how many descriptors the process is prepared for at once: 32 KiB of kernel
// memory.
const roomFor = 4096

// makeRoom has the kernel's table of descriptors grow to roomFor. It grows by itself as
// descriptors are opened, but by doubling, and in a process of several threads each time
// waits until no processor can be looking at the old one any more (expand_fdtable in
// fs/file.c): the first thousand ports take 30 to 40 ms longer for it. A limit that is
// lower than that leaves it as it is.
func makeRoom() {
	if fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, roomFor-1); err == nil {
		_ = unix.Close(fd)
	}
}
