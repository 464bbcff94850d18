// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// without runs f on a thread that may not make a system call, as under a unit's
// SystemCallFilter.
func without(t *testing.T, call uint32, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and its filter
		err := refuseCall(call)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		t.Skip("this kernel has no system call filters: ", err)
	} else {
		require.NoError(t, err)
	}
}

// refuseCall makes a system call fail with EPERM on this thread.
func refuseCall(call uint32) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	f := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&f)), 0, 0)
}

// A group that may not make pipes, or not splice, reports it once, at its first loop. It
// does not try again for each piece of data, and recovers.
func TestPipesRefused(t *testing.T) {
	for name, call := range map[string]uint32{"pipe2": unix.SYS_PIPE2, "splice": unix.SYS_SPLICE} {
		t.Run(name, func(t *testing.T) {
			noLeak(t)
			var told []error
			g := NewGroup(&GroupOptions{PipeFailed: func(err error) { told = append(told, err) }})
			require.NoError(t, g.PipeError())
			var l *loop
			without(t, call, func() {
				var err error
				l, err = newLoop(g, 0)
				require.NoError(t, err)
				require.Nil(t, l.pipes.get())
				l.pipes.retry = time.Now()
				require.Nil(t, l.pipes.get())
			})
			defer closeFD(l.epoll)
			defer closeFD(l.wakeup)
			require.ErrorIs(t, g.PipeError(), unix.EPERM)
			require.ErrorContains(t, g.PipeError(), name)
			require.Len(t, told, 1)
			require.ErrorIs(t, told[0], unix.EPERM)
			require.Equal(t, 2*firstPipePause, l.pipes.pause)
			require.Zero(t, l.pipes.made)

			require.Nil(t, l.pipes.get(), "not before its time")
			l.pipes.retry = time.Now()
			q := l.pipes.get()
			require.NotNil(t, q)
			require.NoError(t, g.PipeError())
			l.pipes.put(q)
			l.pipes.trim()
			require.Zero(t, l.pipes.made)
		})
	}
}
