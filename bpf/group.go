// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Reasons why programs cannot be attached to control groups.
var (
	// ErrNoGroup says that the kernel has no control groups of version 2, or none that this process may open.
	ErrNoGroup = errors.New("no control groups of version 2")
	// ErrGroupTaken says that the group has a program of another that admits no second one.
	ErrGroupTaken = errors.New("another program is attached to the control group that admits no other beside it")
	// ErrNoHook says that the kernel has no such hook, or lacks what the program needs there.
	ErrNoHook = fmt.Errorf("the kernel has no such hook: %w", errors.ErrUnsupported)
)

// RootGroup opens the root of the control groups of version 2, whether it is mounted or not: all processes are in it or below.
// It needs CAP_SYS_ADMIN where /sys/fs/cgroup is not of version 2. The error is [ErrNoGroup], and ErrPermission of package fs if
// privileges are missing.
func RootGroup() (*os.File, error) {
	fd, err := mountGroups()
	if err == nil {
		return os.NewFile(uintptr(fd), "cgroup2"), nil
	}
	for _, path := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var fs unix.Statfs_t
		if unix.Statfs(path, &fs) != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		if f, err := os.Open(path); err == nil {
			return f, nil
		}
	}
	return nil, fmt.Errorf("open the root control group: %w: %w", ErrNoGroup, err)
}

// mountGroups opens the root without a place in the file system. Without CAP_SYS_ADMIN it does not
// ask the kernel, because a filter of system calls may end the process for that.
func mountGroups() (int, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err == nil && have[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
		return 0, unix.EPERM
	}
	context, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(context) }()
	if err := unix.FsconfigCreate(context); err != nil {
		return 0, err
	}
	return unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, 0)
}
