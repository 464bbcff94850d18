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
	"time"
)

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
