// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A search is whole if no files are hidden from it, and finds sockets that only one thread or
// an io_uring has.
func TestSearch(t *testing.T) {
	root := t.TempDir()
	fd := func(path, to string) {
		path = filepath.Join(root, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.Symlink(to, path))
	}
	fd("7/fd/3", "socket:[1]")
	fd("8/fd/3", "/dev/null")
	fd("8/task/8/fd/3", "/dev/null")
	fd("8/task/9/fd/3", "socket:[2]")
	fd("8/task/9/fd/4", "anon_inode:[io_uring]")
	require.NoError(t, os.MkdirAll(filepath.Join(root, "8/task/9/fdinfo"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "8/task/9/fdinfo/4"), []byte("UserFiles:\t1\n    0: socket:[3]\n"), 0o644))
	for _, c := range []struct {
		socket   string
		thorough bool
		want     int
	}{{"socket:[1]", false, 7}, {"socket:[2]", false, 0}, {"socket:[2]", true, 8}, {"socket:[3]", true, 8}, {"socket:[4]", true, 0}} {
		s := search{root: root, socket: c.socket}
		require.Equal(t, c.want, s.run(c.thorough), c.socket)
		require.True(t, s.whole)
	}
	fd("9/fd/3/4", "/dev/null") // what cannot be read as a link
	s := search{root: root, socket: "socket:[4]"}
	require.Zero(t, s.run(false))
	require.False(t, s.whole)
	require.False(t, seesAll(root))
	_, _, none := Find(0)
	require.False(t, none)
}
