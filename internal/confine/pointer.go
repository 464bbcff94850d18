// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// setCapabilities is capset(2) for all threads.
func setCapabilities(header *unix.CapUserHeader, sets *capabilitySets) error {
	return allThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(header)), uintptr(unsafe.Pointer(sets)))
}

// createRuleset is landlock_create_ruleset(2).
func createRuleset(attr *rulesetAttr) (int, error) {
	fd, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(attr)), attr.size(), 0)
	if e != 0 {
		return -1, e
	}
	return int(fd), nil
}

// addPath is landlock_add_rule(2).
func addPath(ruleset int, attr *unix.LandlockPathBeneathAttr) error {
	_, _, e := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(attr)), 0, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

// setFilter is seccomp(2) for all threads. The kernel logs what is refused. Nothing runs
// in the process that is not its own code, so that it does without the slow guards
// against speculation that kernels before 5.16 give with a filter.
func setFilter(program []unix.SockFilter) error {
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: unsafe.SliceData(program)}
	const flags = unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_LOG | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	thread, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	switch {
	case e != 0:
		return e
	case thread != 0: // which has a filter of its own
		return unix.EBUSY
	}
	return nil
}
