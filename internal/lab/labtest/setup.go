// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// setUp prepares the namespaces that this process has just been started in. Its mounts
// are seen by this process and its children only.
func setUp() error {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	if err := writableProc(); err != nil {
		return err
	}
	return emptyRun()
}

// writableProc makes /proc/sys/net writable: container runtimes mount it read-only.
func writableProc() error {
	var st unix.Statfs_t
	if err := unix.Statfs("/proc/sys/net", &st); err != nil {
		return fmt.Errorf("look at /proc/sys/net: %w", err)
	}
	if st.Flags&unix.ST_RDONLY == 0 {
		return nil
	}
	remount := unix.Mount("none", "/proc/sys", "", unix.MS_REMOUNT|unix.MS_BIND, "")
	if remount == nil {
		return nil
	}
	// Only the owner of the PID namespace may do this (mount_namespaces(7)).
	if fresh := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); fresh != nil {
		return fmt.Errorf("make /proc/sys writable: %w", errors.Join(remount, fresh))
	}
	return nil
}

// emptyRun mounts an empty file system on /run, where named namespaces, locks and sockets
// are, unless the tests themselves are there.
func emptyRun() error {
	wd, err := os.Getwd()
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	for _, p := range []string{wd, exe, os.TempDir()} {
		if target, err := filepath.EvalSymlinks(p); err == nil && strings.HasPrefix(target, "/run/") {
			return nil
		}
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("cover /run: %w", err)
	}
	return nil
}

// skipExamples skips the examples, which cannot skip themselves.
func skipExamples() error {
	f := flag.Lookup("test.skip")
	if f == nil || f.Value.String() != "" {
		return nil
	}
	return f.Value.Set("^Example")
}
