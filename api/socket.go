// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// socket is a listener whose file was made by Listen. Restore can replace file and listening
// socket.
type socket struct {
	path string

	mu       sync.Mutex
	listener *net.UnixListener
	// before are replaced listening sockets, which may have clients in their queues.
	before []*net.UnixListener
	// file is the file at path; nil: it had been removed when the listener was inherited.
	file     os.FileInfo
	deadline time.Time
	closed   bool
}

func (s *socket) current() *net.UnixListener {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listener
}

// Accept goes on with the new listening socket when the socket was replaced.
func (s *socket) Accept() (net.Conn, error) {
	for {
		if c := s.acceptBefore(); c != nil {
			return c, nil
		}
		l := s.current()
		c, err := l.AcceptUnix()
		if err == nil {
			return c, nil
		}
		if l == s.current() {
			return nil, err
		}
	}
}

// acceptBefore accepts from the queues of replaced sockets, and closes those that are empty: no
// more clients come to them.
func (s *socket) acceptBefore() net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.before) != 0 {
		if c, err := takeQueued(s.before[0]); err == nil {
			return c
		}
		_ = s.before[0].Close() // frees it whatever it returns (close(2))
		s.before = s.before[1:]
	}
	return nil
}

// Addr returns the path; the kernel knows the path at which it was bound.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }

func (s *socket) SetDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	return s.listener.SetDeadline(t)
}

func (s *socket) SyscallConn() (syscall.RawConn, error) { return s.current().SyscallConn() }

// Close removes the file, if it is still the socket's own, and then closes the socket: while
// the socket listens, no other server replaces the file between the check and the removal.
func (s *socket) Close() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed && s.file != nil {
		if file, statErr := os.Lstat(s.path); statErr == nil && os.SameFile(file, s.file) {
			err = os.Remove(s.path)
		}
	}
	return errors.Join(err, s.close())
}

func (s *socket) close() error {
	s.closed = true
	for _, l := range s.before {
		_ = l.Close() // nobody waits for it any more
	}
	s.before = nil
	return s.listener.Close()
}

// Restore checks the file of a listener. If it was removed and [Listen] had made it, Restore
// makes it again, with the process's group and mode 0777 less the umask, and returns true;
// clients in the queue are still accepted. The directory has to be the same. Restore does
// nothing if the listener is closed.
//
// Errors: fs.ErrNotExist if the file was removed and Listen had not made it, or the directory
// was removed; fs.ErrExist if another file is at the path: it is never replaced.
func Restore(l net.Listener) (restored bool, err error) {
	path := l.Addr().String()
	s, made := l.(*socket)
	switch {
	case made:
		restored, err = s.restore()
	case path != "" && path[0] != '@': // else it has no file
		_, err = os.Lstat(path)
	}
	if err != nil {
		return false, fmt.Errorf("look for socket %s: %w", path, cause(err))
	}
	return restored, nil
}

func (s *socket) restore() (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false, nil
	}
	file, err := os.Lstat(s.path)
	switch {
	case err == nil && (s.file == nil || !os.SameFile(file, s.file)):
		return false, fmt.Errorf("something else is there: %w", fs.ErrExist)
	case !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	// Another process may be starting a server at the path.
	lock, err := lockDirectory(filepath.Dir(s.path))
	if err != nil {
		return false, err
	}
	err = s.bind()
	return err == nil, errors.Join(err, lock.Close())
}

// bind makes the socket at its path, and not in a directory beside it as Listen does: the
// process may no longer be allowed to make that. Until the socket listens, some microseconds, it
// looks like that of a dead server to processes that do not lock the directory.
func (s *socket) bind() error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.path, Net: "unix"})
	if err != nil {
		return err // syscall.EADDRINUSE: somebody was faster
	}
	l.SetUnlinkOnClose(false)
	file, err := os.Lstat(s.path)
	if err == nil {
		err = l.SetDeadline(s.deadline)
	}
	if err != nil {
		return errors.Join(err, l.Close())
	}
	before := s.listener
	s.before = append(s.before, before)
	s.listener, s.file = l, file
	return before.SetDeadline(time.Unix(1, 0)) // wakes Accept
}

// Lend returns the descriptor of a server's listener, to be sent to another process; the
// listener still owns it. made is whether Listen made the file, which then has to be removed by
// the process that closes the listener.
func Lend(l net.Listener) (fd int, made bool, err error) {
	sc, ok := l.(syscall.Conn)
	if !ok {
		return 0, false, fmt.Errorf("lend %s: %T has no descriptor", l.Addr(), l)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, false, fmt.Errorf("lend %s: %w", l.Addr(), err)
	}
	_, made = l.(*socket)
	return fd, made, raw.Control(func(n uintptr) { fd = int(n) })
}

// Inherit makes a listener from a descriptor that another process has lent, and the path of its
// Addr. It owns the descriptor, also after an error. Close removes the file if Listen made it.
// The file gets the group, unless it is negative.
func Inherit(fd int, path string, made bool, group int) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), path)
	l, err := net.FileListener(f)
	err = errors.Join(err, f.Close())
	if err != nil {
		return nil, fmt.Errorf("take over %s: %w", path, err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("take over %s: it is no unix socket", path), l.Close())
	}
	u.SetUnlinkOnClose(false)
	if !made {
		return u, nil
	}
	s := &socket{listener: u, path: path}
	if group >= 0 {
		err = os.Chown(path, -1, group)
	}
	if err == nil {
		s.file, err = os.Lstat(path)
	}
	// A removed file is made again when this process serves.
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("take over %s: %w", path, err), u.Close())
	}
	return s, nil
}

// Abandon closes a listener that another process has too, and leaves its file.
func Abandon(l net.Listener) error {
	s, ok := l.(*socket)
	if !ok {
		return l.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.close()
}
