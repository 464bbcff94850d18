// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestGrowFileTable: the kernel's table of descriptors is large enough for what it is to be
// (FDSize, proc_pid_status(5)), and none of them is left open for it.
func TestGrowFileTable(t *testing.T) {
	var limit unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	if limit.Cur < fileTableSize {
		t.Skipf("RLIMIT_NOFILE is %d", limit.Cur)
	}
	before, err := openFiles()
	require.NoError(t, err)
	growFileTable()
	after, err := openFiles()
	require.NoError(t, err)
	require.Equal(t, before, after)
	status, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(status), "\nFDSize:")
	require.True(t, found)
	var size int
	_, err = fmt.Sscan(rest, &size)
	require.NoError(t, err)
	require.GreaterOrEqual(t, size, fileTableSize)
}
