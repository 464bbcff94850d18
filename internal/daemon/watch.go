// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/netns"
	"github.com/nftnat/nftnat/internal/printable"
)

// A network namespace lives as long as a process is in it. If the one that a daemon serves is
// deleted by its name ("ip netns del"), only the daemon would keep it, with its links and
// addresses, and no command would find the daemon any more.
//
// Namespaces and files are checked at intervals. inotify(7) reports names that are removed, but
// neither mounts that end without their names nor processes that end, and it takes system calls
// that a confined daemon does not have.

// watchPause is between two checks. A check is a few calls of stat(2).
const watchPause = 500 * time.Millisecond

// namedNamespace is a network namespace and the names by which it is known.
type namedNamespace struct {
	inode uint64
	names []string // none: it lives as long as the daemon
}

// namesOf finds the names of a namespace: the path that was given, or else those that it has in
// a directory. The namespace of the first process has none of the latter: it lives as long as
// the system, whatever becomes of its names.
func namesOf(inode uint64, given, directory string) namedNamespace {
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
		if found, err := netns.Inode(path); err == nil && found == inode {
			n.names = append(n.names, path)
		}
	}
	return n
}

// isFirst reports whether the namespace of this process, which has that inode, is the one that
// the system or the container was started in. A process in a container may not be allowed to
// look at the first process; settings for all namespaces are in the system's first alone.
func isFirst(inode uint64) bool {
	if first, err := netns.Inode("/proc/1/ns/net"); err == nil && first == inode {
		return true
	}
	_, err := os.Stat("/proc/sys/net/core/netdev_budget")
	return err == nil
}

// deleted reports whether no name leads to the namespace any more. A name that exists and may
// not be followed counts as one that does: a confined process may not follow those in /proc.
func (n namedNamespace) deleted() bool {
	for _, name := range n.names {
		inode, err := netns.Inode(name)
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

// awaitDeletion waits until the namespace is deleted or the context is done.
func (n namedNamespace) awaitDeletion(ctx context.Context) (deleted bool) {
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

// socketUmask leaves a socket that bind(2) makes mode 0660. The other files that a daemon makes
// once it is up have mode 0600.
const socketUmask = 0o117

// ownSocketFiles gives the process the umask and the group of its socket, since a confined
// process cannot change the mode and the group of a socket that it makes again.
func (s *server) ownSocketFiles() {
	if s.managed() {
		return
	}
	unix.Umask(socketUmask)
	if s.group == ownGroup {
		return
	}
	// For all threads, unlike the call of package unix.
	if err := syscall.Setregid(-1, s.group); err != nil {
		s.log.Warn("the socket would lose its group if it had to be made anew", "group", s.group, "error", err)
	}
}

// watchFiles makes the file of the socket and the state file again when others have removed
// them, and says so once if it cannot. It returns, and so the daemon ends, when another server
// supersedes this one.
func (s *server) watchFiles(ctx context.Context) error {
	ticker := time.NewTicker(watchPause)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if s.checkSocket(ctx) {
				return nil
			}
			s.checkState()
		}
	}
}

func (s *server) checkSocket(ctx context.Context) (superseded bool) {
	restored, err := api.Restore(s.listener)
	news := changed(&s.socketGone, err)
	switch {
	case s.superseded(ctx, err):
		s.log.Warn("another server listens at the socket's path, and so the daemon ends", "socket", s.listener.Addr())
		return true
	case restored:
		s.log.Warn("others removed the socket: it is there again", "socket", s.listener.Addr())
	case !news:
	case s.managed() && errors.Is(err, fs.ErrNotExist):
		s.log.Warn("others removed the socket, which the service manager made: restart its unit for commands to find this daemon", "error", err)
	default:
		s.log.Warn("commands do not find this daemon: end it, and they start another", "error", err)
	}
	return false
}

// supersededTimeout bounds the wait for an answer of the server that has the path of the socket.
// With watchPause and DrainTimeout it is less than successionTimeout, for which that server
// waits for this one to end.
const supersededTimeout = 2 * time.Second

// superseded reports whether another server listens at the path of this daemon's socket, to
// serve the same table: the service manager put its own socket there, and the service waits
// for the table. One that answers has another table or namespace, and stands only in the way
// of commands.
func (s *server) superseded(ctx context.Context, err error) bool {
	if !errors.Is(err, fs.ErrExist) {
		s.othersPath = false
		return false
	}
	if s.managed() || s.othersPath {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, supersededTimeout)
	defer cancel()
	_, err = api.NewClient(s.listener.Addr().String()).Daemon(ctx)
	s.othersPath = err == nil
	return errors.Is(err, context.DeadlineExceeded)
}

// changed keeps the text of an error, and reports whether it is another one than before.
func changed(kept *atomic.Pointer[string], err error) bool {
	text := ""
	if err != nil {
		text = printable.Line(err.Error())
	}
	before := kept.Swap(&text)
	return err != nil && (before == nil || *before != text)
}

func (s *server) checkState() {
	if s.file == nil {
		return
	}
	restored, err := s.file.Restore()
	news := changed(&s.stateGone, err)
	if restored {
		s.log.Warn("others removed the state file or its lock: it is there again")
	}
	if news {
		s.log.Warn("the state file is not kept", "error", err)
	}
}
