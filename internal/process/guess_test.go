// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// processWith makes the directory of a process with files.
func processWith(t *testing.T, size int, link func(fd int) string) (root string) {
	t.Helper()
	root = t.TempDir()
	dir := filepath.Join(root, "7", "fd")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "7", "status"), fmt.Appendf(nil, "Name:\tx\nFDSize:\t%d\nGroups:\t\n", size), 0o644))
	for fd := range size {
		if to := link(fd); to != "" {
			require.NoError(t, os.Symlink(to, filepath.Join(dir, fmt.Sprint(fd))))
		}
	}
	return root
}

// A socket among very many is found at its place, also where two processors took turns, where some
// descriptors are closed or no sockets, and where the table has room for more.
func TestGuess(t *testing.T) {
	inode := func(fd int) int { return 1000 + fd ^ 512 }
	root := processWith(t, 4096, func(fd int) string {
		switch {
		case fd > 3000 || fd%100 == 0:
			return ""
		case fd%7 == 0:
			return "/dev/null"
		}
		return fmt.Sprintf("socket:[%d]", inode(fd))
	})
	process := filepath.Join(root, "7")
	for _, fd := range []int{1, 501, 513, 1501, 2998} {
		s := search{root: root, socket: fmt.Sprintf("socket:[%d]", inode(fd))}
		require.True(t, s.guess(process), fd)
		require.Equal(t, 7, s.run(false))
	}
	for _, socket := range []string{"socket:[1]", "socket:[99999]", "socket:[x]", ""} {
		s := search{root: root, socket: socket}
		require.False(t, s.guess(process), socket)
		require.Zero(t, s.run(false))
	}
}

// One that is not where it would be is found all the same.
func TestGuessIsWrong(t *testing.T) {
	root := processWith(t, 2*aside+manyFiles, func(fd int) string {
		switch {
		case fd == 3:
			return "socket:[90000]"
		case fd%64 == 0:
			return fmt.Sprintf("socket:[%d]", 1000+fd)
		}
		return ""
	})
	s := search{root: root, socket: "socket:[90000]"}
	require.False(t, s.guess(filepath.Join(root, "7")))
	require.Equal(t, 7, s.run(false))
	require.False(t, (&search{root: root, socket: "socket:[1]"}).guess(filepath.Join(root, "8")), "there is no such process")
}
