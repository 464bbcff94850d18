// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// What helps depends on what was not permitted.
func TestHint(t *testing.T) {
	add, _, err := newRoot(io.Discard, nil).Find([]string{"add"})
	require.NoError(t, err)
	const netlink = " (run it as root, or give it CAP_NET_ADMIN)"
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"netlink": {os.NewSyscallError("sendmsg", syscall.EPERM), netlink},
		"sysctl":  {&fs.PathError{Op: "open", Path: "/proc/sys/net/ipv4/ip_forward", Err: syscall.EACCES}, netlink},
		"file":    {usageError{&fs.PathError{Op: "open", Path: "state.yaml", Err: syscall.EACCES}}, " (run it as root)"},
		"bpf": {
			fmt.Errorf("%w: %w", engine.ErrLoopback, syscall.EPERM),
			" (run it as root, or give it CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN)",
		},
		"control groups": {
			fmt.Errorf("%w: %w: %w", engine.ErrLoopback, engine.ErrNoGroup, syscall.EPERM),
			" (run it as root, or give it CAP_SYS_ADMIN; or mount cgroup2 at /sys/fs/cgroup, and give it CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN)",
		},
		"daemon": {
			&api.Problem{Code: api.CodePermission, Detail: "permission denied"},
			" (the daemon has to run as root, or with CAP_NET_ADMIN and CAP_NET_BIND_SERVICE)",
		},
		"socket": {hintedError{&api.Problem{Code: api.CodePermission}, "join the group"}, " (join the group)"},
		"usage":  {usageError{errors.New("two arguments")}, ` (see "nftnat add --help")`},
		"no file": {
			usageError{&fs.PathError{Op: "open", Path: "state.yaml", Err: syscall.ENOENT}}, "",
		},
		"other": {errors.New("no route"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, hint(add, fmt.Errorf("do it: %w", test.err)))
		})
	}
}

// The group that is named is the socket's, or its directory's where that keeps even the
// socket's group from being seen.
func TestSocketHint(t *testing.T) {
	if os.Getuid() != 0 {
		labtest.Skip(t, "to give files to a group needs root")
	}
	const group = 4242 // has no name
	dir := t.TempDir()
	path := filepath.Join(dir, "nftnat.sock")
	require.Equal(t, "run it as root", socketHint(path))
	require.NoError(t, os.Chown(dir, 0, group))
	require.Equal(t, "run it as root, or as a member of the group 4242", socketHint(path))
	require.NoError(t, os.WriteFile(path, nil, 0o660))
	require.NoError(t, os.Chown(path, 0, 0))
	require.Equal(t, "run it as root", socketHint(path))
}
