// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import "golang.org/x/sys/unix"

// processorTime is what a process has had of processors so far, in seconds; pid 0 is
// this one. What is done for packets at once, in soft interrupts, counts for the process
// that sent them.
func processorTime(pid int) float64 {
	if pid == 0 {
		return clock(unix.CLOCK_PROCESS_CPUTIME_ID)
	}
	// What clock_getcpuclockid(3) returns: the bits of the number inverted, and
	// CPUCLOCK_SCHED of include/linux/posix-timers_types.h below them.
	return clock(int32(^pid<<3 | 2))
}

// threadTime is what the calling thread has had of processors so far, in seconds.
func threadTime() float64 { return clock(unix.CLOCK_THREAD_CPUTIME_ID) }

// clock reads a clock; 0: the process has ended.
func clock(id int32) float64 {
	var t unix.Timespec
	if unix.ClockGettime(id, &t) != nil {
		return 0
	}
	return float64(t.Nano()) / 1e9
}
