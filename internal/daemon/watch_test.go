// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/netns"
)

// The names of a namespace are those of the directory that lead to it, but for the namespace of
// the first process, which does not end with a name.
func TestNamesOf(t *testing.T) {
	dir := t.TempDir()
	first := "/proc/self/ns/net"
	own, err := netns.Inode(first)
	require.NoError(t, err)
	if !isFirst(own) {
		first = "/proc/1/ns/net"
		if _, err := netns.Inode(first); err != nil {
			t.Skipf("this process is in another namespace than the first one, and may not look at that: %v", err)
		}
	}
	// Any file will do for the others: they are told apart by inodes.
	file := filepath.Join(t.TempDir(), "namespace")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for name, target := range map[string]string{"host": first, "one": file, "two": file, "gone": dir + "/nothing"} {
		require.NoError(t, os.Symlink(target, filepath.Join(dir, name)))
	}
	inode := func(path string) uint64 {
		i, err := netns.Inode(path)
		require.NoError(t, err)
		return i
	}
	require.Empty(t, namesOf(inode(first), "", dir).names)
	n := namedNamespace{inode(file), []string{filepath.Join(dir, "one"), filepath.Join(dir, "two")}}
	require.False(t, n.deleted())
	require.NoError(t, os.Remove(n.names[0]))
	require.False(t, n.deleted())
	// The name of another one now.
	require.NoError(t, os.Remove(n.names[1]))
	require.NoError(t, os.Symlink("/proc/self/ns/net", n.names[1]))
	require.True(t, n.deleted())

	given := namesOf(inode(file), filepath.Join(file, "below"), dir)
	require.Equal(t, []string{filepath.Join(file, "below")}, given.names)
	require.True(t, given.deleted(), "it is below what is no directory")
	require.False(t, namedNamespace{}.deleted(), "it has no name that could go")
}
