// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// temporary is the name of a file that takes the place of another one. Runtimes do not read it: it has no
// extension that they know.
func temporary(dir string) string { return filepath.Join(dir, "."+Type+"-"+strconv.Itoa(os.Getpid())) }

// editAttempts bounds how often a file is edited because another program has changed it meanwhile.
const editAttempts = 3

// EditFile edits a file in one step: readers see it as it was, or edited and on the disk. It keeps its mode
// and owner. It is not written if nothing changes.
func EditFile(path string, change func([]byte) ([]byte, error)) (changed bool, err error) {
	if path, err = followed(path); err != nil {
		return false, err
	}
	for range editAttempts {
		before, err := os.ReadFile(path)
		if err != nil {
			return false, err
		}
		after, err := change(before)
		if err != nil {
			return false, fmt.Errorf("edit %s: %w", path, err)
		}
		if bytes.Equal(before, after) {
			return false, nil
		}
		written, err := replaceFile(path, before, after)
		if err != nil || written {
			return written, err
		}
	}
	return false, fmt.Errorf("edit %s: another program changes it all the time", path)
}

// followed is the path of the file that a path leads to.
func followed(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // was not even read
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
}

// replaceFile writes a file, unless it has other content than before.
func replaceFile(path string, before, after []byte) (written bool, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	f, err := os.OpenFile(temporary(filepath.Dir(path)), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return false, err
	}
	defer func() {
		if !written {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(after)
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && err == nil {
		err = f.Chown(int(stat.Uid), int(stat.Gid))
	}
	if err == nil {
		err = f.Chmod(info.Mode().Perm())
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return false, err
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, before) {
		return false, err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return false, err
	}
	return true, syncDir(filepath.Dir(path))
}

// syncDir waits until what was renamed in a directory is on the disk.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Link makes the plugin's file in a directory of plugins: a symbolic link to the program.
func Link(dir, program string) (changed bool, err error) {
	path := filepath.Join(dir, Type)
	there, err := os.Stat(path)
	if err == nil {
		if self, err := os.Stat(program); err == nil && os.SameFile(self, there) {
			return false, nil
		}
	}
	if err := os.Symlink(program, temporary(dir)); err != nil {
		return false, err
	}
	if err := os.Rename(temporary(dir), path); err != nil {
		return false, errors.Join(err, os.Remove(temporary(dir)))
	}
	return true, nil
}

// Unlink removes the link that Link made, and no other.
func Unlink(dir, program string) (changed bool, err error) {
	path := filepath.Join(dir, Type)
	if leads, err := os.Readlink(path); err != nil || leads != program {
		return false, nil // of others, or there is none
	}
	return true, os.Remove(path)
}
