// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package boottest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// newGroup makes a control group below the test's own, which is removed with all below
// it when the test ends. The second version is there to be mounted also where the host
// uses the first.
func newGroup(tb testing.TB, dir string) *os.File {
	tb.Helper()
	all := filepath.Join(dir, "cgroup")
	if err := os.Mkdir(all, 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := unix.Mount("cgroup2", all, "cgroup2", 0, ""); err != nil {
		labtest.Skip(tb, "to boot a machine needs to mount cgroup2: "+err.Error())
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(all, unix.MNT_DETACH); err != nil {
			tb.Error(err)
		}
	})
	path, err := os.MkdirTemp(all, "boottest-")
	if err != nil {
		labtest.Skip(tb, "to boot a machine needs a control group: "+err.Error())
	}
	tb.Cleanup(func() {
		if err := removeGroup(path); err != nil {
			tb.Error(err)
		}
	})
	group, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	return group
}

// removeGroup removes a control group and those below it. The kernel lets go of one a
// moment after its last process has ended.
func removeGroup(path string) error {
	deadline := time.Now().Add(labtest.Stretch(10 * time.Second))
	for {
		err := removeGroupOnce(path)
		if err == nil || !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func removeGroupOnce(path string) error {
	var dirs []string
	err := filepath.WalkDir(path, func(dir string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, dir)
		}
		return err
	})
	for _, dir := range slices.Backward(dirs) { // those below first
		err = errors.Join(err, unix.Rmdir(dir))
	}
	return err
}
