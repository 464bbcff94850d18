// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package confine drops what a process does not need once it is up: capabilities, files
// and system calls, so that an intruder in it can do little but its own work.
//
// Apply is called once, late, and cannot be undone. It goes as far as the kernel and the
// build allow, and reports what is in force and what is not, and why. Each part holds for
// all threads, later ones included:
//
//   - no new privileges (prctl(2), PR_SET_NO_NEW_PRIVS): a program that is executed has no
//     more of them than the process;
//   - capabilities (capabilities(7)): those of Options are kept, in the bounding set too
//     where the process may change it;
//   - files (landlock(7), Linux 5.13): those of Options can be opened, and no others.
//     What is open stays open. It also ends looking into other processes (ptrace(2),
//     /proc/PID/fd);
//   - system calls (seccomp(2)): those that the Go runtime and a server of sockets use.
//     Others fail with EPERM, and the kernel logs them. Nothing can be executed, no
//     memory made executable, and no socket made but of unix, IPv4, IPv6 and netlink.
//
// Be aware:
//   - Go can make a call on all of its threads in builds without cgo only. In others
//     the filter of system calls and no new privileges are all that is put in force.
//   - The filter is for amd64, on which it is tested. Elsewhere the report says that there
//     is none.
package confine
