// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Command peak runs a program and prints how many nanoseconds it took and how much memory
// it had at most, in KiB. It is small, and that is its purpose: what a program is said to
// have had at most is never less than what its parent had when it was started
// (setmax_mm_hiwater_rss in the kernel's fs/exec.c).
package main

import (
	"os"
	"strconv"
	"syscall"
	"time"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	start := time.Now()
	null, err := syscall.Open("/dev/null", syscall.O_WRONLY, 0)
	if err != nil {
		return fail(err)
	}
	pid, err := syscall.ForkExec(args[0], args, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, uintptr(null), 2},
	})
	if err != nil {
		return fail(err)
	}
	var status syscall.WaitStatus
	var usage syscall.Rusage
	for {
		if _, err = syscall.Wait4(pid, &status, 0, &usage); err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		return fail(err)
	}
	took := time.Since(start)
	if status != 0 {
		return max(status.ExitStatus(), 1)
	}
	line := strconv.FormatInt(took.Nanoseconds(), 10) + " " + strconv.Itoa(int(usage.Maxrss)) + "\n"
	_, _ = os.Stdout.WriteString(line)
	return 0
}

func fail(err error) int {
	_, _ = os.Stderr.WriteString(err.Error() + "\n")
	return 1
}
