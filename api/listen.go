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
	"syscall"
	"time"
)

const (
	directoryMode = 0o750
	socketMode    = 0o660

	// maxSocketPath is the most bytes the path of a socket may have: sun_path less
	// the NUL at its end (unix(7)).
	maxSocketPath = 107

	// lockAttempts bounds how often a directory that somebody else has locked is
	// tried, with growing pauses: 2 s in all. A lock is held for microseconds.
	lockAttempts = 15
	// answerTimeout bounds the wait for the queue of a server that is there.
	answerTimeout = time.Second
)

// Listen makes the socket of a server: a file of mode 0660 and the given group; a
// negative group leaves it that of the process. Its directory is made if it is
// missing, with mode 0750 and the same group; the directory above has to be there.
//
// The file appears under its name only when it is complete, so a client that finds it
// is answered. A socket that a dead server has left behind is replaced. Closing the
// listener removes the file. If another program removes it, [Restore] creates it again.
//
// Errors: syscall.EADDRINUSE if another server answers there; fs.ErrExist if there is
// something else, symbolic links included; fs.ErrPermission, also for a directory in
// which everybody may replace files.
func Listen(path string, group int) (net.Listener, error) {
	s, err := listen(path, group)
	if err != nil {
		if s != nil {
			err = errors.Join(err, s.Close())
		}
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return s, nil
}

func listen(path string, group int) (*socket, error) {
	// The process may change its directory before the file is removed.
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	if err := makeDirectory(dir, group); err != nil {
		return nil, err
	}
	// Of several servers that start, one at a time checks and replaces the file.
	lock, err := lockDirectory(dir)
	if err != nil {
		return nil, err
	}
	s, err := replace(path, group)
	return s, errors.Join(err, lock.Close())
}

// makeDirectory makes a directory with its mode whatever the umask, and never a wider one.
func makeDirectory(dir string, group int) error {
	err := os.Mkdir(dir, 0o700)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err != nil:
		return err
	}
	if group >= 0 {
		if err := os.Chown(dir, -1, group); err != nil {
			return err
		}
	}
	return os.Chmod(dir, directoryMode)
}

// lockDirectory opens a directory and locks it (flock(2)). The lock ends when the
// file is closed, or the process ends.
func lockDirectory(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
	}
	return f, nil
}

func lockFile(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return fmt.Errorf("everybody may replace files in it: %w", fs.ErrPermission)
	}
	pause := time.Millisecond
	for range lockAttempts {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); !errors.Is(err, syscall.EAGAIN) {
			return err
		}
		time.Sleep(pause)
		pause = min(2*pause, 250*time.Millisecond)
	}
	return err
}

// replace makes a socket at path, also if one of a dead server is there.
func replace(path string, group int) (*socket, error) {
	if err := checkStale(path); err != nil {
		return nil, err
	}
	// bind(2) makes the file with what the umask leaves of 0777, and the umask is
	// the whole process's. So it is made where nobody else can reach it.
	private, err := os.MkdirTemp(filepath.Dir(path), ".")
	if err != nil {
		return nil, err
	}
	s, err := bindAndMove(filepath.Join(private, "s"), path, group)
	// After a success it is empty.
	return s, errors.Join(err, os.RemoveAll(private))
}

// checkStale returns an error if the file at path must not be replaced.
func checkStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("what is there is no socket: %w", fs.ErrExist)
	}
	nc, err := net.DialTimeout("unix", path, answerTimeout)
	switch {
	case err == nil:
		return errors.Join(errInUse(), nc.Close())
	case errors.Is(err, syscall.EAGAIN): // its queue is full
		return errInUse()
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return err
}

func errInUse() error { return fmt.Errorf("another server answers: %w", syscall.EADDRINUSE) }

// bindAndMove makes a listening socket, and then renames its file: connect(2) finds the socket by
// the new name.
func bindAndMove(from, to string, group int) (*socket, error) {
	for _, path := range []string{from, to} {
		if len(path) > maxSocketPath {
			return nil, fmt.Errorf("%s has %d bytes, and a socket's path ends at %d: %w",
				path, len(path), maxSocketPath, syscall.ENAMETOOLONG)
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: from, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	s := &socket{listener: l, path: to}
	if err := s.publish(from, group); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return s, nil
}

// publish gives the file its group, mode and name, in this order.
func (s *socket) publish(from string, group int) (err error) {
	if group >= 0 {
		if err := os.Chown(from, -1, group); err != nil {
			return err
		}
	}
	if err := os.Chmod(from, socketMode); err != nil {
		return err
	}
	if s.file, err = os.Lstat(from); err != nil {
		return err
	}
	return os.Rename(from, s.path)
}
