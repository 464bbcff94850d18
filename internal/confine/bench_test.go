// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// What the filter costs: a call that does next to nothing, which the kernel remembers is
// allowed, and one whose arguments are looked at each time. The process is not the same
// afterwards, so it is for a run of its own:
//
//	sudo go test -run '^$' -bench Filter -count 5 ./confine
func BenchmarkFilter(b *testing.B) {
	getpid := func() { _, _, _ = unix.RawSyscall(unix.SYS_GETPID, 0, 0, 0) }
	socket := func() {
		fd, _, _ := unix.RawSyscall(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		_, _, _ = unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	}
	without := func(b *testing.B) bool {
		b.Helper()
		mode, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
		return err == nil && mode == 0 // in force, it forbids the question
	}
	for _, filtered := range []bool{false, true} {
		name := "without/"
		if filtered {
			name = "with/"
			if without(b) {
				_ = noNewPrivileges() // of one thread, where there is cgo
				_, err := filterCalls(Options{})
				require.NoError(b, err)
			}
		}
		for call, f := range map[string]func(){"getpid": getpid, "socket and close": socket} {
			b.Run(name+call, func(b *testing.B) {
				if !filtered && !without(b) {
					b.Skip("the process has the filter of an earlier round")
				}
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				begin := processorTime(b)
				for b.Loop() {
					f()
				}
				// Others may work on the machine.
				b.ReportMetric(float64(processorTime(b)-begin)/float64(b.N), "cpu-ns/op")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// processorTime is what the thread has used, in nanoseconds.
func processorTime(b *testing.B) int64 {
	b.Helper()
	var ts unix.Timespec
	require.NoError(b, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts))
	return ts.Nano()
}
