// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// A socket whose file was removed is there again, for those who come and for those who were
// in its queue.
func TestRestore(t *testing.T) {
	labtest.LeakCheck(t)
	path := filepath.Join(directory(t), "s")
	l, err := Listen(path, -1)
	require.NoError(t, err)
	restored, err := Restore(l)
	require.NoError(t, err)
	require.False(t, restored, "it is there")

	early, err := net.Dial("unix", path)
	require.NoError(t, err)
	defer early.Close()
	_, err = early.Write([]byte("GET /v1/mappings HTTP/1.1\r\nHost: nftnat\r\nConnection: close\r\n\r\n"))
	require.NoError(t, err)
	for range 2 {
		require.NoError(t, os.Remove(path))
		restored, err = Restore(l)
		require.NoError(t, err)
		require.True(t, restored)
	}
	s := startOn(t, l, Options{Engine: newFake()}, defaultLimits())
	_, err = s.Mappings(t.Context())
	require.NoError(t, err)
	answer := make([]byte, 15)
	require.NoError(t, early.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = early.Read(answer)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 200 OK", string(answer))

	// And while it is served.
	for range 3 {
		require.NoError(t, os.Remove(path))
		restored, err := Restore(l)
		require.NoError(t, err)
		require.True(t, restored)
		_, err = s.Mappings(t.Context())
		require.NoError(t, err)
	}
	require.NoError(t, s.stop())
	require.NoFileExists(t, path)
	restored, err = Restore(l)
	require.NoError(t, err)
	require.False(t, restored, "it was closed")
	require.NoFileExists(t, path)
}

// What is somebody else's is neither replaced nor removed.
func TestRestoreLeavesOthers(t *testing.T) {
	labtest.LeakCheck(t)
	path := filepath.Join(directory(t), "s")
	l, err := Listen(path, -1)
	require.NoError(t, err)
	require.NoError(t, os.Remove(path))
	other, err := Listen(path, -1)
	require.NoError(t, err)
	_, err = Restore(l)
	require.ErrorIs(t, err, fs.ErrExist)
	require.EqualError(t, err, "look for socket "+path+": something else is there: file already exists")
	_, err = Restore(other)
	require.NoError(t, err)
	require.NoError(t, l.Close())
	nc, err := net.Dial("unix", path)
	require.NoError(t, err, "the other's is still there")
	require.NoError(t, nc.Close())
	require.NoError(t, other.Close())

	// Its directory is not made anew: who removed that meant all that was in it.
	dir := filepath.Join(directory(t), "d")
	l, err = Listen(filepath.Join(dir, "s"), -1)
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(dir))
	_, err = Restore(l)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoDirExists(t, dir)
	require.NoError(t, l.Close())

	// A socket of the service manager's is for that to make.
	given, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	given.SetUnlinkOnClose(false)
	defer given.Close()
	_, err = Restore(given)
	require.NoError(t, err)
	require.NoError(t, os.Remove(path))
	_, err = Restore(given)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoFileExists(t, path)

	abstract, err := net.ListenUnix("unix", &net.UnixAddr{Name: "@" + path, Net: "unix"})
	require.NoError(t, err)
	defer abstract.Close()
	_, err = Restore(abstract)
	require.NoError(t, err, "it has no file")
}

// Of a server that makes its file anew and one that starts at the same path, one has it.
func TestRestoreRace(t *testing.T) {
	labtest.LeakCheck(t)
	path := filepath.Join(directory(t), "s")
	for range 200 {
		first, err := Listen(path, -1)
		require.NoError(t, err)
		require.NoError(t, os.Remove(path))
		var (
			racing             sync.WaitGroup
			restored           bool
			restoreErr, newErr error
			second             net.Listener
		)
		racing.Go(func() { restored, restoreErr = Restore(first) })
		racing.Go(func() { second, newErr = Listen(path, -1) })
		racing.Wait()
		if restored {
			require.NoError(t, restoreErr)
			require.ErrorIs(t, newErr, syscall.EADDRINUSE)
		} else {
			require.NoError(t, newErr)
			require.True(t, errors.Is(restoreErr, fs.ErrExist) || errors.Is(restoreErr, syscall.EADDRINUSE), "%v", restoreErr)
			require.NoError(t, second.Close())
		}
		require.NoError(t, first.Close())
	}
	require.Empty(t, entries(t, filepath.Dir(path)))
}

// A socket whose file is gone just when another process takes it over is taken over.
func TestInheritWithoutFile(t *testing.T) {
	labtest.LeakCheck(t)
	path := filepath.Join(directory(t), "s")
	l, err := Listen(path, -1)
	require.NoError(t, err)
	lent, made, err := Lend(l)
	require.NoError(t, err)
	require.True(t, made)
	fd, err := syscall.Dup(lent)
	require.NoError(t, err)
	require.NoError(t, os.Remove(path))
	heir, err := Inherit(fd, path, made, -1)
	require.NoError(t, err)
	require.NoError(t, Abandon(l))
	restored, err := Restore(heir)
	require.NoError(t, err)
	require.True(t, restored)
	require.NoError(t, heir.Close())
	require.NoFileExists(t, path)
}
