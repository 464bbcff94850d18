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
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// File stores the state of an engine in a JSON file: it is a Store of package engine. From
// Load to Close it locks the file FILE.lock. A new state is written to FILE.new, which is
// renamed when all of it is on the disk.
//
// Several goroutines may call its methods at once.
type File struct {
	path string

	mu   sync.Mutex
	lock *os.File
	kept []byte // the text of the file; nil: there is none
}

// NewFile returns a File and opens nothing. The directory must exist.
func NewFile(path string) *File { return &File{path: path} }

const (
	newSuffix  = ".new"
	lockSuffix = ".lock"
)

// Load locks the file and reads it; found is false if there is none. Somebody may have
// written the file by hand: then it has no checksum.
//
// Errors: a [*LineError] for a file that is cut off, wrong or empty; an
// [*nat.InvalidError] for a path that cannot be that of such a file; a [*nat.TakenError]
// if another process has locked the file.
func (f *File) Load() (s nat.StoredState, found bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.acquire(lockAttempts); err != nil {
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
	if s, err = decodeFile(text, f.path); err != nil {
		return nat.StoredState{}, false, err
	}
	f.kept = []byte(text)
	return s, true, nil
}

// decodeFile reads the text of a file, but refuses one that was emptied.
func decodeFile(text, name string) (nat.StoredState, error) {
	if !saysSomething(strings.TrimPrefix(text, byteOrderMark)) {
		err := fault(1, "file", "", "it says nothing; one of no mappings says \"mappings: []\", and to begin anew delete it")
		err.File = name
		return nat.StoredState{}, err
	}
	return decode(text, name)
}

func (f *File) invalid(reason string) error {
	return &nat.InvalidError{What: "state file", Input: f.path, Reason: reason}
}

// lockAttempts and lockPause bound how long Load waits for the end of another process.
const (
	lockAttempts = 100
	lockPause    = 10 * time.Millisecond
)

// acquire locks the file: another one beside it, because the file itself is replaced.
func (f *File) acquire(attempts int) error {
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
			// For the error of another process. It does not matter if this fails.
			_ = lock.Truncate(0)
			_, _ = lock.WriteAt(strconv.AppendInt(nil, int64(os.Getpid()), 10), 0)
			return nil
		case attempt == attempts && errors.Is(err, syscall.EWOULDBLOCK):
			err = &nat.TakenError{What: "state file " + f.path, Holder: holder(lock)}
		case errors.Is(err, syscall.EWOULDBLOCK), errors.Is(err, syscall.EINTR):
			time.Sleep(lockPause)
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

// Save writes the state and returns when it is on the disk. On an error the file is as it
// was.
func (f *File) Save(s nat.StoredState) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	text, err := encodeFile(s)
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
	err := f.write(text)
	if err != nil {
		return err
	}
	if err = syncDirectory(filepath.Dir(f.path)); err == nil {
		return nil
	}
	// Which of the two files a power failure leaves is unknown. What was refused must not
	// come back.
	if f.kept == nil {
		return errors.Join(err, os.Remove(f.path))
	}
	return errors.Join(err, f.write(f.kept))
}

// write writes a file and gives it the name of this one.
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
	if err = errors.Join(err, out.Close()); err == nil {
		err = os.Rename(path, f.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Restore writes the file as it was saved last if others have removed it between Load and
// Close, and makes and locks the file of the lock if they have removed that. Otherwise a
// reboot before the next change would lose everything, and another process could use the same
// file. A file that somebody has replaced is left to the next Save.
//
// Errors: a [*nat.TakenError] if another process has taken the lock; those of Save.
func (f *File) Restore() (restored bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lock == nil {
		return false, nil
	}
	if !f.lockIsThere() {
		before := f.lock
		if err := f.acquire(1); err != nil {
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

// lockIsThere reports whether others would lock the same file.
func (f *File) lockIsThere() bool {
	mine, err := f.lock.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(f.path + lockSuffix)
	return err == nil && os.SameFile(mine, there)
}

// Close unlocks the file and leaves it.
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
