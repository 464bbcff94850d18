// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// longestPacket is how long a packet is on its way through the rules at most.
	longestPacket = time.Second
	// gracePause is waited where the kernel does not wait.
	gracePause = 20 * time.Millisecond
	// barrierGlobal is MEMBARRIER_CMD_GLOBAL.
	barrierGlobal = 1
)

// Grace waits until no packet is under way in the rules that began before the table was created or its
// elements were changed last. The kernel waits until each processor has come by a point at which it handles none
// (membarrier(2)); it does not if there is one processor, or some are kept free of interrupts.
func (t *Table) Grace() {
	if t.changed.IsZero() || time.Since(t.changed) > longestPacket {
		return
	}
	_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, barrierGlobal, 0, 0)
	if errno != 0 || runtime.NumCPU() == 1 {
		time.Sleep(gracePause)
	}
	t.changed = time.Time{}
}
