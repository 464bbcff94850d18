// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// envHold makes the test binary hold the lock of the table that it names.
const envHold = "NFTNAT_TEST_HOLD"

// holdLock says what came of taking the lock, and keeps it until its standard input
// ends.
func holdLock(table string) int {
	l, err := LockTable(context.Background(), here(), table, 0)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("held")
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := l.Close(); err != nil {
		return 1
	}
	return 0
}

func here() *Namespace { return &Namespace{} }

// holder starts a process that holds the lock, in the namespace of the tests.
func holder(t *testing.T, table string) (pid int, release func(kill bool)) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envHold+"="+table)
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var once sync.Once
	release = func(kill bool) {
		once.Do(func() {
			if kill {
				_ = cmd.Process.Kill()
			}
			_ = stdin.Close()
			_ = cmd.Wait() // killed, or not: it has ended
		})
	}
	t.Cleanup(func() { release(true) })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "held\n", line)
	return cmd.Process.Pid, release
}

func TestLockNamesItsHolder(t *testing.T) {
	labtest.Require(t)
	l, err := LockTable(t.Context(), here(), "own", 0)
	require.NoError(t, err)
	_, err = LockTable(t.Context(), here(), "own", 0)
	var owned *nat.OwnedError
	require.ErrorAs(t, err, &owned)
	require.Equal(t, nat.OwnedError{Table: "own", PID: os.Getpid(), UID: os.Getuid()}, *owned)
	require.ErrorIs(t, err, nat.ErrOwned)
	other, err := LockTable(t.Context(), here(), "other", 0)
	require.NoError(t, err, "another table")
	require.NoError(t, other.Close())
	require.NoError(t, l.Close())

	pid, _ := holder(t, "theirs")
	_, err = LockTable(t.Context(), here(), "theirs", 10*time.Millisecond)
	require.ErrorAs(t, err, &owned)
	require.Equal(t, pid, owned.PID)
	require.EqualError(t, err, fmt.Sprintf("table theirs is owned by pid %d (uid %d)", pid, os.Getuid()))
}

func TestLockOfTheDead(t *testing.T) {
	labtest.Require(t)
	for _, kill := range []bool{false, true} {
		_, release := holder(t, "dead")
		release(kill)
		l, err := LockTable(t.Context(), here(), "dead", 0)
		require.NoError(t, err)
		require.NoError(t, l.Close())
	}
}

func TestLockServesItsWaiters(t *testing.T) {
	labtest.Require(t)
	for _, kill := range []bool{false, true} {
		_, release := holder(t, "waited")
		const waiters = 20
		errs := make(chan error, waiters)
		var mu sync.Mutex
		held := 0
		for range waiters {
			go func() {
				l, err := LockTable(t.Context(), here(), "waited", time.Minute)
				if err == nil {
					mu.Lock()
					held++
					alone := held == 1
					mu.Unlock()
					if !alone {
						err = errors.New("two have the lock")
					}
					mu.Lock()
					held--
					mu.Unlock()
					err = errors.Join(err, l.Close())
				}
				errs <- err
			}()
		}
		release(kill)
		for range waiters {
			require.NoError(t, <-errs)
		}
	}
}

// A name that somebody has bound and does not listen on can be held against the
// engine by anybody of the namespace. It gives up, and says so.
func TestLockBoundAndNotListened(t *testing.T) {
	labtest.Require(t)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: "@nftnat/bound"}))
	for _, wait := range []time.Duration{0, 20 * time.Millisecond} {
		_, err = LockTable(t.Context(), here(), "bound", wait)
		require.ErrorIs(t, err, nat.ErrOwned)
	}
	require.NoError(t, unix.Close(fd))
	l, err := LockTable(t.Context(), here(), "bound", 0)
	require.NoError(t, err)
	require.NoError(t, l.Close())
}

// The lock belongs to the network namespace, as the table does.
func TestLockOfANamespace(t *testing.T) {
	ns := labtest.NewNS(t, "other")
	there, err := OpenNamespace(ns.Path())
	require.NoError(t, err)
	outer, err := LockTable(t.Context(), here(), "nftnat", 0)
	require.NoError(t, err)
	inner, err := LockTable(t.Context(), there, "nftnat", 0)
	require.NoError(t, err)
	_, err = LockTable(t.Context(), there, "nftnat", 0)
	require.ErrorIs(t, err, nat.ErrOwned)
	require.NoError(t, errors.Join(outer.Close(), inner.Close(), there.Close()))
}

func TestOwnedError(t *testing.T) {
	require.EqualError(t, &nat.OwnedError{Table: "t"}, "table t is owned by a process that cannot be seen from here")
}
