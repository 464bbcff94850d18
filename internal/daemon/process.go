// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

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

// garbagePercent is how much garbage a daemon's heap may have before it is collected, in per
// cent of what is in use. Go's default is 100, and at least 4 MiB; the minimum shrinks with it.
// A daemon of some hundred mappings has 1 MiB in use: the garbage of a request now and then
// would be a quarter of its memory. The proxies make no garbage.
const garbagePercent = 50

// collectSooner has garbage collected sooner, unless the user of the daemon has decided.
func collectSooner() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
}

// startMemory is what a start takes and serving does not.
type startMemory struct{ code []pages }

// pages are mapped from a file.
type pages struct{ first, last uintptr }

// findStartMemory is called while files can be read.
func findStartMemory() (m startMemory) {
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return m
	}
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return m
	}
	var p pages
	var access string
	ours := false
	for line := range strings.Lines(string(maps)) {
		var first, last uintptr
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &first, &last, &access); n == 3 {
			p, ours = pages{first, last}, len(access) == 4 && access[1] == '-' && strings.HasSuffix(strings.TrimSpace(line), " "+program)
		}
		// Pages that were written, such as by the dynamic linker, are not those of the file.
		if fields := strings.Fields(line); ours && len(fields) == 3 && fields[0] == "Anonymous:" && fields[1] == "0" {
			m.code = append(m.code, p)
		}
	}
	return m
}

// releaseDelay is how long after the start its memory is given back: when what begins then has begun.
const releaseDelay = time.Second

// release gives the memory back, a little later. The kernel maps code and constants again, a few pages at a
// time, when they are next used; they are in its page cache.
func (m startMemory) release(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(releaseDelay):
		m.giveBack()
	}
}

func (m startMemory) giveBack() {
	debug.FreeOSMemory()
	for _, p := range m.code {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, p.first, p.last-p.first, unix.MADV_DONTNEED)
	}
}
