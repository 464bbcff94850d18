// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A network namespace lives for as long as a process is in it. If the one that a daemon
// serves is deleted by its name ("ip netns del"), the daemon would be all that keeps it,
// with its links and addresses, and no command would find the daemon any more.
//
// It is looked for at intervals. inotify(7) tells of names that are removed, but neither of
// mounts that go without their names nor of processes that end, and takes calls that a
// confined daemon does not have.

// watchPause is between two looks at what others may remove. A look is two calls of stat(2).
const watchPause = 500 * time.Millisecond

// namedNamespace is a network namespace and the names by which it is known.
type namedNamespace struct {
	inode uint64
	names []string // none: it lives as long as the daemon
}

// netnsDirectory is where ip(8) keeps the names of network namespaces.
const netnsDirectory = "/run/netns"

// nameNamespace finds the names of a namespace: the path that was given, or else those that
// it has in a directory, that of ip(8). The namespace of the first process is not among the
// latter: it lives as long as the system, whatever becomes of a name.
func nameNamespace(inode uint64, given, directory string) namedNamespace {
	n := namedNamespace{inode: inode}
	if given != "" {
		n.names = []string{given}
		return n
	}
	if isFirst(inode) {
		return n
	}
	entries, err := os.ReadDir(directory)
	if err != nil {
		return n
	}
	for _, e := range entries {
		path := filepath.Join(directory, e.Name())
		if found, err := inodeOf(path); err == nil && found == inode {
			n.names = append(n.names, path)
		}
	}
	return n
}

// isFirst reports whether the namespace of this process, which has that inode, is the one that
// the system or the container was started in. A process in a container may not be let to look
// at the first one; settings for all namespaces are in the system's first alone.
func isFirst(inode uint64) bool {
	if first, err := inodeOf("/proc/1/ns/net"); err == nil && first == inode {
		return true
	}
	_, err := os.Stat("/proc/sys/net/core/netdev_budget")
	return err == nil
}

// deleted reports whether none of the names that there were leads to the namespace any more.
// A name that may not be followed does, as long as it is there: a confined process may not
// follow those in /proc.
func (n namedNamespace) deleted() bool {
	for _, name := range n.names {
		inode, err := inodeOf(name)
		if errors.Is(err, fs.ErrPermission) {
			if _, err = os.Lstat(name); err == nil {
				return false
			}
		}
		switch {
		case err == nil && inode == n.inode:
			return false
		case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR):
			return false
		}
	}
	return len(n.names) != 0
}

// await returns when the namespace was deleted, or the context is done.
func (n namedNamespace) await(ctx context.Context) (deleted bool) {
	if len(n.names) == 0 {
		return false
	}
	ticker := time.NewTicker(watchPause)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
			if n.deleted() {
				return true
			}
		}
	}
}

func (n namedNamespace) String() string { return strings.Join(n.names, ", ") }

// inodeOf is the inode of what a path leads to.
func inodeOf(path string) (uint64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, &os.PathError{Op: "stat", Path: path, Err: errors.ErrUnsupported}
	}
	return stat.Ino, nil
}
