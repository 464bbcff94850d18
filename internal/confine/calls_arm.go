// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package confine

import "golang.org/x/sys/unix"

const (
	nativeArch = unix.AUDIT_ARCH_ARM
	statCall   = unix.SYS_FSTATAT64
	// cloneFlags is which argument of clone(2) has the flags.
	cloneFlags = 0
)

// mapCalls are those that map memory and have the protection as their third argument.
func mapCalls() []uint32 { return []uint32{unix.SYS_MMAP2, unix.SYS_MPROTECT} }

// ownCalls are those that the architecture has for what others do by another call.
func ownCalls() []uint32 {
	return []uint32{
		unix.SYS_EPOLL_WAIT, unix.SYS_RENAMEAT, unix.SYS_SIGRETURN, unix.SYS_FSTAT64, unix.SYS_STAT64, unix.SYS_LSTAT64,
		unix.SYS_FTRUNCATE64, unix.SYS_FCNTL64, unix.SYS__LLSEEK, unix.SYS_GETUID32, unix.SYS_GETEUID32, unix.SYS_FUTEX_TIME64,
		unix.SYS_CLOCK_GETTIME64, unix.SYS_CLOCK_NANOSLEEP_TIME64, unix.SYS_PPOLL_TIME64,
	}
}

// ownSocketCalls are those of them that make or use sockets.
func ownSocketCalls() []uint32 {
	return []uint32{
		unix.SYS_SEND, unix.SYS_RECV, unix.SYS_RECVMMSG_TIME64,
	}
}
