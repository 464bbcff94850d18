// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package confine

import "golang.org/x/sys/unix"

const (
	nativeArch = unix.AUDIT_ARCH_RISCV64
	statCall   = unix.SYS_NEWFSTATAT
	// cloneFlags is which argument of clone(2) has the flags.
	cloneFlags = 0
)

// mapCalls are those that map memory and have the protection as their third argument.
func mapCalls() []uint32 { return []uint32{unix.SYS_MMAP, unix.SYS_MPROTECT} }

// ownCalls are those that the architecture has for what others do by another call.
func ownCalls() []uint32 {
	return nil
}

// ownSocketCalls are those of them that make or use sockets.
func ownSocketCalls() []uint32 { return nil }
