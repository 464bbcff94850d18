// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// raiseFileLimit raises the limit of open files, since each port takes a socket: to fs.nr_open
// with the privilege for it, else to the hard limit. If that is too little, the error is that of
// a port which cannot be bound.
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

// fileTableSize is how many descriptors the process is prepared for from the start: 32 KiB of
// kernel memory.
const fileTableSize = 4096

// growFileTable makes the kernel's table of descriptors fileTableSize long. By itself the table
// doubles as descriptors are opened, and each time a process of several threads waits until no
// processor can be looking at the old table (expand_fdtable in fs/file.c): the first thousand
// ports take 30 to 40 ms longer for it. With a lower limit of open files nothing happens.
func growFileTable() {
	if fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, fileTableSize-1); err == nil {
		_ = unix.Close(fd)
	}
}
