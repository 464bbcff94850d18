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

// socket is a listener whose file was made by Listen, and can be made anew: its listening
// socket is another one then.
type socket struct {
	path string

	mu       sync.Mutex
	listener *net.UnixListener
	// before are listening sockets that had the path, and may have clients in their queues.
	before []*net.UnixListener
	// file is what was made at path; nil: it was gone when the listener was inherited.
	file     os.FileInfo
	deadline time.Time
	closed   bool
}

func (s *socket) current() *net.UnixListener {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listener
}

// Accept goes on with another listening socket when that has taken the place of this one.
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

// acceptBefore lets in who is in the queue of a socket that had the path before. When nobody
// is, nobody will come: it is closed.
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

// Addr returns where the socket is now; the kernel tells where it was bound.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }

func (s *socket) SetDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	return s.listener.SetDeadline(t)
}

func (s *socket) SyscallConn() (syscall.RawConn, error) { return s.current().SyscallConn() }

// Close removes the file, if it is still the socket's own, and closes the socket. In
// this order: as long as the socket listens, no server takes the file for stale, and
// so none replaces it between the look and the removal.
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

// abandon closes the socket and leaves the file.
func (s *socket) abandon() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.close()
}

func (s *socket) close() error {
	s.closed = true
	for _, l := range s.before {
		_ = l.Close() // nobody waits for it any more
	}
	s.before = nil
	return s.listener.Close()
}

// Restore looks for the file of a listener. If others have removed it, one that was made by
// [Listen] is made anew, with what the process's umask leaves of mode 0777 and the process's
// group, and restored is true; clients that were in the queue are let in. The directory has
// to be the one that it was. It does nothing to a listener that is closed.
//
// Errors: fs.ErrNotExist if the file is gone and is somebody else's to make, or its directory
// is gone too; fs.ErrExist if something else is at its path: that is never replaced.
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
	err := s.find()
	if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	// Whoever starts a server at the path meanwhile takes turns with this one.
	lock, err := lockDirectory(filepath.Dir(s.path))
	if err != nil {
		return false, err
	}
	err = s.bind()
	return err == nil, errors.Join(err, lock.Close())
}

// find looks for the file.
func (s *socket) find() error {
	there, err := os.Lstat(s.path)
	if err == nil && (s.file == nil || !os.SameFile(there, s.file)) {
		err = fmt.Errorf("something else is there: %w", fs.ErrExist)
	}
	return err
}

// bind makes a socket where there is none, under its name at once: a directory beside it,
// as in Listen, may not be to be had any more. Until it listens, some microseconds, it looks
// like one of a dead server, but for those who lock the directory.
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

// Lend returns the descriptor of a server's listener, for another process to have it too;
// it stays the listener's. made is whether its file was made by Listen, and so has to be
// removed by whoever closes it.
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

// Inherit makes a listener of what another process has lent, with the path that its Addr
// had; it owns the descriptor, also if there is an error. Close removes the file if it was
// made by Listen. A group that is not negative becomes that of the file.
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
	// If others have just removed it, it is made anew when this process serves.
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("take over %s: %w", path, err), u.Close())
	}
	return s, nil
}

// Abandon closes a listener that another process has now, and leaves its file.
func Abandon(l net.Listener) error {
	if s, ok := l.(*socket); ok {
		return s.abandon()
	}
	return l.Close()
}
