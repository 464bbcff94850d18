// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A daemon in the background, started by a command or by serve --detach, must behave the
// same whoever starts it. What execve(2) hands on from the caller is dropped: by the command
// what only a parent can drop (descriptors, environment), by the daemon the rest.

// envFresh marks a daemon that was executed again by reset.
const envFresh = "NFTNAT_FRESH"

// ownVariables are the environment variables that a daemon reads: its own, and those of the
// Go runtime and the time package. Names that end in "_" are prefixes.
func ownVariables() []string {
	return []string{"NFTNAT_", "GODEBUG", "GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GOTRACEBACK", "GOCOVERDIR", "TZ"}
}

// serviceVariables are those by which a service manager reaches a daemon. They are for the
// process that it has started, and for a successor of that one (serve --takeover --detach).
func serviceVariables() []string { return []string{envNotify, "JOURNAL_STREAM"} }

// envNotify names the socket of the service manager (sd_notify(3)).
const envNotify = "NOTIFY_SOCKET"

// keepVariables returns the entries of an environment whose names are listed.
func keepVariables(environ, names []string) []string {
	kept := []string{} // nil would be the whole environment of the process
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if slices.ContainsFunc(names, func(own string) bool {
			return name == own || strings.HasSuffix(own, "_") && strings.HasPrefix(name, own)
		}) {
			kept = append(kept, entry)
		}
	}
	return kept
}

// closeOnExec keeps all descriptors of this process but the standard ones from the programs
// that it starts, also those that it was itself started with.
func closeOnExec() error {
	return os.NewSyscallError("close_range", unix.CloseRange(3, 1<<32-1, unix.CLOSE_RANGE_CLOEXEC))
}

// enterBackground drops what a daemon has from its caller. What needs a privilege that the
// daemon does not have stays as it is: that is no reason not to start.
//
// Kept are the identity of the caller (user, groups, capabilities, security label) and what
// it sees (root directory, namespaces). The daemon of a unit also keeps the limits, the
// scheduling and the control group, which are those that the unit gives it; a unit may not
// even let it ask for others.
func enterBackground() {
	ofUnit := staysInControlGroup(os.Environ())
	if !ofUnit && os.Getenv(envFresh) == "" {
		reset()
	}
	_ = os.Unsetenv(envFresh)
	// For ps(1), ss(8) and nft(8): after reset it would be "exe".
	_ = os.WriteFile("/proc/self/comm", []byte("nftnat"), 0)
	signal.Ignore(syscall.SIGHUP) // there is no terminal, and nothing to reload
	unix.Umask(0o077)
	if ofUnit {
		return
	}
	resetLimits()
	if score, err := os.ReadFile(oomScore); err == nil && strings.TrimSpace(string(score)) != "0" {
		_ = os.WriteFile(oomScore, []byte("0"), 0)
	}
}

// oomScore is how much the process is preferred when memory runs out (proc(5)).
const oomScore = "/proc/self/oom_score_adj"

// resetLimits lifts the limits that would end or hinder a daemon after a while, as far as
// the process may. That of open files is raised by raiseFileLimit.
func resetLimits() {
	for _, resource := range []int{
		unix.RLIMIT_CPU, unix.RLIMIT_FSIZE, unix.RLIMIT_DATA, unix.RLIMIT_AS,
		unix.RLIMIT_NPROC, unix.RLIMIT_LOCKS, unix.RLIMIT_RTTIME,
	} {
		var limit unix.Rlimit
		if unix.Getrlimit(resource, &limit) != nil {
			continue
		}
		none := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
		if limit == none || unix.Setrlimit(resource, &none) == nil {
			continue
		}
		limit.Cur = limit.Max
		_ = unix.Setrlimit(resource, &limit)
	}
}

// reset leaves the control group of the caller, and resets what belongs to a thread: the mask
// of signals, scheduling, I/O priority and processor affinity. Threads get it from the one
// that starts them, so that the Go runtime has it in several by now; and it follows the limits
// of the control group in which it has started. If anything had to be changed the program is
// executed again by the thread that has done so; reset returns only if nothing had to be.
func reset() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	changed := false
	for _, reset := range []func() (changed bool){resetControlGroup, unblockSignals, resetScheduling, resetIOPriority, resetAffinity} {
		changed = reset() || changed
	}
	if !changed {
		return
	}
	// This very program, also when another one has been installed meanwhile. If it cannot be
	// executed, this process is as good a daemon as it can be.
	_ = syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), envFresh+"=1"))
}

func resetControlGroup() (changed bool) {
	changed, _ = leaveControlGroup() // why it could not, serve says
	return changed
}

func unblockSignals() (changed bool) {
	var none, blocked unix.Sigset_t
	return unix.PthreadSigmask(unix.SIG_SETMASK, &none, &blocked) == nil && blocked != none
}

func resetScheduling() (changed bool) {
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil || attr.Policy == unix.SCHED_NORMAL && attr.Nice == 0 && attr.Flags == 0 {
		return false
	}
	return unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}, 0) == nil
}

// Of ioprio_set(2): whose priority it is, and the value of a thread of nice 0 that has none
// of its own, which kernels tell as one of the best-effort class or as none.
const (
	ioprioProcess    = 1
	ioprioBestEffort = 2<<13 | 4
)

func resetIOPriority() (changed bool) {
	prio, _, e := unix.Syscall(unix.SYS_IOPRIO_GET, ioprioProcess, 0, 0)
	if e != 0 || prio == 0 || prio == ioprioBestEffort {
		return false
	}
	_, _, e = unix.Syscall(unix.SYS_IOPRIO_SET, ioprioProcess, 0, 0)
	return e == 0
}

func resetAffinity() (changed bool) {
	var before, all, after unix.CPUSet
	for i := range all {
		all[i] = ^all[i]
	}
	if unix.SchedGetaffinity(0, &before) != nil || unix.SchedSetaffinity(0, &all) != nil || unix.SchedGetaffinity(0, &after) != nil {
		return false
	}
	return before != after
}

// starter is whoever started this daemon in the background and waits for its word; nil:
// nobody, for it runs in the foreground.
func starter() *os.File {
	fd, err := strconv.Atoi(os.Getenv(envReady))
	if err != nil || fd < 3 {
		return nil
	}
	enterBackground()
	_ = os.Unsetenv(envReady)
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "ready")
}

// keepsErrors reports whether a daemon in the background may go on to write to the standard
// error of the command that starts it: a file, a device that is no terminal, or the journal.
// Who reads a pipe or another socket waits for its end, and a terminal is somebody else's
// by then.
func keepsErrors(f *os.File) bool {
	var stat unix.Stat_t
	if unix.Fstat(int(f.Fd()), &stat) != nil {
		return false
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return true
	case unix.S_IFCHR:
		return !isTerminal(f)
	}
	return toJournal(f)
}
