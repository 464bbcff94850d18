// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package startmemory

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// garbagePercent is how much garbage the heap may have before it is collected, in per
// cent of what is in use. Go's default is 100, and at least 4 MiB; the minimum shrinks with it.
// A daemon of some hundred mappings has 1 MiB in use: the garbage of a request now and then
// would be a quarter of its memory. The proxies make no garbage.
const garbagePercent = 50

// CollectSooner has garbage collected sooner, unless the user of the program has decided.
func CollectSooner() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
}

// Memory is what a start takes and serving does not.
type Memory struct{ code []pages }

// pages are mapped from a file.
type pages struct{ first, last uintptr }

// Find is called while files can be read.
func Find() (m Memory) {
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

// Release gives the memory back, a little later. The kernel maps code and constants again, a few pages at a
// time, when they are next used; they are in its page cache.
func (m Memory) Release(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(releaseDelay):
		m.GiveBack()
	}
}

// GiveBack gives the memory back now.
func (m Memory) GiveBack() {
	debug.FreeOSMemory()
	for _, p := range m.code {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, p.first, p.last-p.first, unix.MADV_DONTNEED)
	}
}
