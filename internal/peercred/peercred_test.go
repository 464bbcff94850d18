// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package peercred_test

import (
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/peercred"
)

// connect returns the two ends of a connection of this process with itself.
func connect(t *testing.T) (client, server *net.UnixConn) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: t.TempDir() + "/s", Net: "unix"})
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	client, err = net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	require.NoError(t, err)
	server, err = l.AcceptUnix()
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	return client, server
}

func TestPeer(t *testing.T) {
	client, server := connect(t)
	self := unix.Ucred{Pid: int32(os.Getpid()), Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())}
	mine, err := os.Getgroups()
	require.NoError(t, err)
	for _, c := range []*net.UnixConn{client, server} {
		cred, err := peercred.Get(c)
		require.NoError(t, err)
		require.Equal(t, self, cred)
		groups, err := peercred.Groups(c)
		require.NoError(t, err)
		require.Len(t, groups, len(mine))
		for i, g := range groups {
			require.EqualValues(t, mine[i], g)
		}
	}
}

func TestClosed(t *testing.T) {
	client, _ := connect(t)
	require.NoError(t, client.Close())
	_, err := peercred.Get(client)
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = peercred.Groups(client)
	require.ErrorIs(t, err, net.ErrClosed)
}
