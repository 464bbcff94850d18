// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

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
