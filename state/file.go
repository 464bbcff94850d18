// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// File keeps the state of an engine in a file: a Store of package engine. From Load to Close it
// holds the lock of it, which is on a file beside it, with ".lock" behind the name; a new
// state is written to one with ".new" behind it, and takes the name when all of it is on
// the disk.
//
// Its methods can be called by several goroutines at once.
type File struct {
	path string

	mu   sync.Mutex
	lock *os.File
	kept []byte // what the file has; nil: there is none
}

// NewFile makes one, and opens nothing. The directory has to be there.
func NewFile(path string) *File { return &File{path: path} }

const (
	newSuffix  = ".new"
	lockSuffix = ".lock"
)

// Load locks the file and reads it. What is not there is not found. A file without the
// line of the checksum is one that somebody wrote by hand, and is taken as it is.
//
// Errors: a [*LineError] for a file that is torn, or wrong, or empty; an
// [*nat.InvalidError] for a path that cannot be that of a file of ours;
// [*nat.TakenError] if another process has the file.
func (f *File) Load() (nat.StoredState, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.take(); err != nil {
		return nat.StoredState{}, false, err
	}
	// Not blocking, for it could be a pipe.
	in, err := os.OpenFile(f.path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nat.StoredState{}, false, nil
	case errors.Is(err, syscall.ELOOP):
		return nat.StoredState{}, false, f.invalid("it is a symbolic link; say the file that it leads to")
	case err != nil:
		return nat.StoredState{}, false, fmt.Errorf("read state: %w", err)
	}
	defer func() { _ = in.Close() }() // was only read
	if info, err := in.Stat(); err != nil || !info.Mode().IsRegular() {
		return nat.StoredState{}, false, errors.Join(err, f.invalid("it is not a regular file"))
	}
	text, err := read(in)
	if err != nil {
		return nat.StoredState{}, false, fmt.Errorf("read state: %w", err)
	}
	s, err := decodeFile(text, f.path)
	if err != nil {
		return nat.StoredState{}, false, err
	}
	f.kept = []byte(text)
	return s, true, nil
}

func (f *File) invalid(reason string) error {
	return &nat.InvalidError{What: "state file", Input: f.path, Reason: reason}
}

// takeAttempts and takePause bound how long Load waits for a process that ends.
const (
	takeAttempts = 100
	takePause    = 10 * time.Millisecond
)

// take locks the file. The lock is on another one, for the file itself is replaced.
func (f *File) take() error { return f.takeWithin(takeAttempts) }

func (f *File) takeWithin(attempts int) error {
	lock, err := os.OpenFile(f.path+lockSuffix, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f.invalid("there is no directory " + filepath.Dir(f.path))
	case errors.Is(err, syscall.ENOTDIR):
		return f.invalid(filepath.Dir(f.path) + " is no directory")
	case err != nil:
		return fmt.Errorf("lock state: %w", err)
	}
	for attempt := 1; ; attempt++ {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			f.lock = lock
			// For whoever finds it locked. That it could not be written is no harm.
			_ = lock.Truncate(0)
			_, _ = lock.WriteAt(strconv.AppendInt(nil, int64(os.Getpid()), 10), 0)
			return nil
		case attempt == attempts && errors.Is(err, syscall.EWOULDBLOCK):
			err = &nat.TakenError{What: "state file " + f.path, Holder: holder(lock)}
		case errors.Is(err, syscall.EWOULDBLOCK), errors.Is(err, syscall.EINTR):
			time.Sleep(takePause)
			continue
		default:
			err = fmt.Errorf("lock state: %w", &os.PathError{Op: "lock", Path: lock.Name(), Err: err})
		}
		return errors.Join(err, lock.Close())
	}
}

// holder names the process that has a lock.
func holder(lock *os.File) string {
	b, err := io.ReadAll(io.LimitReader(lock, 20))
	if pid, numErr := strconv.Atoi(string(b)); err == nil && numErr == nil && pid > 0 {
		return fmt.Sprintf("pid %d", pid)
	}
	return "another process"
}

// Save writes the state and returns when it is on the disk: under another name, which
// it then takes the file's place with. On an error the file is as it was.
func (f *File) Save(s nat.StoredState) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	text, err := encodeFile(s, len(f.kept))
	if err != nil {
		return err
	}
	if bytes.Equal(text, f.kept) {
		return nil
	}
	if err := f.replace(text); err != nil {
		return fmt.Errorf("keep state: %w", err)
	}
	f.kept = text
	return nil
}

func (f *File) replace(text []byte) error {
	if err := f.write(text); err != nil {
		return err
	}
	if err := os.Rename(f.path+newSuffix, f.path); err != nil {
		return errors.Join(err, os.Remove(f.path+newSuffix))
	}
	if err := syncDirectory(filepath.Dir(f.path)); err != nil {
		// Which of the two a power failure leaves is not known. What was refused is not
		// to come back.
		return errors.Join(err, f.putBack())
	}
	return nil
}

// write writes the new file.
func (f *File) write(text []byte) error {
	path := f.path + newSuffix
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = out.Write(text)
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func (f *File) putBack() error {
	if f.kept == nil {
		return os.Remove(f.path)
	}
	if err := f.write(f.kept); err != nil {
		return err
	}
	return os.Rename(f.path+newSuffix, f.path)
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Restore looks for the file and for that of the lock between Load and Close. If others have
// removed one of them it is made anew, as it was saved last, and restored is true: else a reboot
// before the next change would lose everything, and another process could keep its state in the
// same file. A file that somebody has replaced is left to the next Save. Otherwise it does
// nothing.
//
// Errors: [*nat.TakenError] if another process has taken the lock by then; those of Save.
func (f *File) Restore() (restored bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lock == nil {
		return false, nil
	}
	if !f.lockIsThere() {
		before := f.lock
		if err := f.takeWithin(1); err != nil {
			return false, err
		}
		_ = before.Close() // nobody can find it
		restored = true
	}
	if _, err := os.Lstat(f.path); f.kept == nil || !errors.Is(err, fs.ErrNotExist) {
		return restored, nil
	}
	if err := f.replace(f.kept); err != nil {
		return restored, fmt.Errorf("restore state: %w", err)
	}
	return true, nil
}

// lockIsThere reports whether the file that is locked is still the one that others would lock.
func (f *File) lockIsThere() bool {
	mine, err := f.lock.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(f.path + lockSuffix)
	return err == nil && os.SameFile(mine, there)
}

// Close gives the lock back. The file stays.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lock == nil {
		return nil
	}
	lock := f.lock
	f.lock = nil
	return lock.Close()
}
