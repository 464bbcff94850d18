// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A service manager ends a unit or a session by killing its control group (cgroups(7)). A daemon
// that was started by a command in it has to outlive that, and so moves to a group of its own.

// ownGroupName is the control group of daemons in the background, below the root.
const ownGroupName = "nftnat"

// errOldGroups is why a process does not leave a control group.
var errOldGroups = errors.New("control groups of version 1 are not left")

// ofService reports whether a daemon with that environment is one that a service manager
// watches.
func ofService(environ []string) bool {
	return slices.ContainsFunc(environ, func(entry string) bool {
		return strings.HasPrefix(entry, envNotify+"=") && entry != envNotify+"="
	})
}

// leaveControlGroup moves the process to the daemons' control group, and reports whether it
// had to. If it could not, the error says which group it is in. A process that is in the root
// stays there.
//
// The command does not start the daemon in the group (clone3(2), CLONE_INTO_CGROUP), because
// Linux 6.18 kills a process that is started so from a group that was ever killed, as those of
// units are.
func leaveControlGroup() (moved bool, err error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return false, nil // without /proc nothing is known
	}
	group, old := controlGroups(string(text))
	switch {
	case old != "":
		return false, fmt.Errorf("leave control group %s: %w", old, errOldGroups)
	case group == "", group == "/", group == "/"+ownGroupName:
		return false, nil
	}
	root, err := openControlGroups()
	if err == nil {
		err = errors.Join(enterOwnGroup(root), unix.Close(root))
	}
	if err != nil {
		return false, fmt.Errorf("leave control group %s: %w", group, err)
	}
	return true, nil
}

// openControlGroups returns a descriptor of the root of the control groups of version 2. It
// mounts them without a path, since "ip netns exec" hides the mount in /sys.
func openControlGroups() (int, error) {
	fs, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsopen", err)
	}
	root := -1
	if err = unix.FsconfigCreate(fs); err == nil {
		root, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	}
	if err = errors.Join(os.NewSyscallError("fsmount", err), unix.Close(fs)); err != nil {
		return -1, err
	}
	return root, nil
}

// enterOwnGroup moves this process to the daemons' control group, which it makes if need be.
func enterOwnGroup(root int) error {
	if err := unix.Mkdirat(root, ownGroupName, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return os.NewSyscallError("mkdirat", err)
	}
	fd, err := unix.Openat(root, ownGroupName+"/cgroup.procs", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	_, err = unix.Write(fd, []byte("0"))
	return errors.Join(os.NewSyscallError("write", err), unix.Close(fd))
}

// RemoveControlGroup removes the daemons' control group, unless a daemon is in it.
func RemoveControlGroup() {
	if root, err := openControlGroups(); err == nil {
		_ = unix.Unlinkat(root, ownGroupName, unix.AT_REMOVEDIR)
		_ = unix.Close(root) // nothing was written
	}
}

// controlGroups reads /proc/self/cgroup: the group in the hierarchy of version 2, and in that of
// version 1 where systemd still has one; empty: none but the root.
func controlGroups(text string) (group, old string) {
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		switch {
		case len(fields) != 3:
		case fields[0] == "0":
			group = fields[2]
		case fields[1] == "name=systemd" && fields[2] != "/":
			old = fields[2]
		}
	}
	return group, old
}
