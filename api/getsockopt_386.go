// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

// sysGetsockopt is a system call of its own since Linux 4.3
// (arch/x86/entry/syscalls/syscall_32.tbl); package syscall knows only socketcall.
const sysGetsockopt = 365
