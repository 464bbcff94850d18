// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A daemon in the background must behave the same, whichever process starts it, so it drops what execve(2)
// hands on from the caller: Start drops descriptors and the environment, as only a parent can,
// and Background the rest.

// envFresh marks a daemon that was executed again by reset.
const envFresh = "NFTNAT_FRESH"

// ownVariables are the environment variables that a daemon reads: its own, and those of the
// Go runtime and the time package. Names that end in "_" are prefixes.
func ownVariables() []string {
	return []string{"NFTNAT_", "GODEBUG", "GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GOTRACEBACK", "GOCOVERDIR", "TZ"}
}

// serviceVariables are those by which a service manager reaches a daemon. They are for the
// process that it started, and for one that takes over from that (serve --takeover --detach).
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

// Starter is the command that started this process as a daemon in the background, and waits
// until it is ready.
type Starter struct {
	pipe *os.File
	// stays is why the process is still in the control group of the command; nil: it is not,
	// or is to be there.
	stays error
}

// Background returns the command that started this process as a daemon, after it has dropped
// what the process has inherited. Nil: the process runs in the foreground.
//
// What takes a privilege that the process does not have stays as it is: that is no reason not to
// start. Kept are the identity of the caller (user, groups, capabilities, security label) and
// what it sees (root directory, namespaces). The daemon of a unit also keeps the limits, the
// scheduling and the control group that the unit gives it; a unit may not even let it ask for
// others.
func Background() *Starter {
	fd, err := strconv.Atoi(os.Getenv(envReady))
	if err != nil || fd < 3 {
		return nil
	}
	ofUnit := ofService(os.Environ())
	dropInherited(ofUnit)
	_ = os.Unsetenv(envReady)
	unix.CloseOnExec(fd)
	s := &Starter{pipe: os.NewFile(uintptr(fd), "ready")}
	if !ofUnit {
		_, s.stays = leaveControlGroup() // again, for the reason
	}
	return s
}

// ready says that the daemon is ready.
func (s *Starter) ready() error {
	if s == nil {
		return nil
	}
	_, err := io.WriteString(s.pipe, readyWord)
	_ = s.pipe.Close()
	return err
}

// Failed says why there is no daemon, in one line, and with which status the process ends. Nil
// is no command, and is not told.
func (s *Starter) Failed(status int, reason string) {
	if s != nil {
		_, _ = fmt.Fprintf(s.pipe, "%d %s\n", status, reason) // the command may have ended
	}
}

func dropInherited(ofUnit bool) {
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

// oomScore is how soon the kernel ends the process when memory runs out (proc(5)).
const oomScore = "/proc/self/oom_score_adj"

// resetLimits lifts the limits that would end or hinder a daemon after a while, as far as the
// process may. raiseFileLimit raises that of open files.
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

// reset leaves the control group of the caller, and resets what belongs to a thread: the mask of
// signals, scheduling, I/O priority and processor affinity. The threads of the Go runtime have
// inherited them by now, and the runtime has sized itself by the control group in which it
// started. So if anything had to be changed, the thread that changed it executes the program
// again; reset returns only if nothing had to be.
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
	// The program of this process, even if another one has been installed since. If it cannot
	// be executed, this process goes on as it is.
	_ = syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), envFresh+"=1"))
}

func resetControlGroup() (changed bool) {
	changed, _ = leaveControlGroup() // Background keeps the reason
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

// Of ioprio_set(2): that the priority is of a process, and the value of a thread of nice 0 that
// has none of its own. Kernels report that as one of the best-effort class, or as none.
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

// A service manager ends a unit or a session by killing its control group (cgroups(7)). A daemon
// that was started by a command in it has to outlive that, and so moves to a group of its own.

// ownGroupName is the control group of daemons in the background, below the root.
const ownGroupName = "nftnat"

// errOldGroups is why a process does not leave a control group.
var errOldGroups = errors.New("control groups of version 1 are not left")

// ofService reports whether a daemon with that environment is one that a service manager
// watches.
func ofService(environ []string) bool {
	return slices.ContainsFunc(environ, func(entry string) bool {
		return strings.HasPrefix(entry, envNotify+"=") && entry != envNotify+"="
	})
}

// leaveControlGroup moves the process to the daemons' control group, and reports whether it
// had to. If it could not, the error says which group it is in. A process that is in the root
// stays there.
//
// The command does not start the daemon in the group (clone3(2), CLONE_INTO_CGROUP), because
// Linux 6.18 kills a process that is started so from a group that was ever killed, as those of
// units are.
func leaveControlGroup() (moved bool, err error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return false, nil // without /proc nothing is known
	}
	group, old := controlGroups(string(text))
	switch {
	case old != "":
		return false, fmt.Errorf("leave control group %s: %w", old, errOldGroups)
	case group == "", group == "/", group == "/"+ownGroupName:
		return false, nil
	}
	root, err := openControlGroups()
	if err == nil {
		err = errors.Join(enterOwnGroup(root), unix.Close(root))
	}
	if err != nil {
		return false, fmt.Errorf("leave control group %s: %w", group, err)
	}
	return true, nil
}

// openControlGroups returns a descriptor of the root of the control groups of version 2. It
// mounts them without a path, since "ip netns exec" hides the mount in /sys.
func openControlGroups() (int, error) {
	fs, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsopen", err)
	}
	root := -1
	if err = unix.FsconfigCreate(fs); err == nil {
		root, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	}
	if err = errors.Join(os.NewSyscallError("fsmount", err), unix.Close(fs)); err != nil {
		return -1, err
	}
	return root, nil
}

// enterOwnGroup moves this process to the daemons' control group, which it makes if need be.
func enterOwnGroup(root int) error {
	if err := unix.Mkdirat(root, ownGroupName, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return os.NewSyscallError("mkdirat", err)
	}
	fd, err := unix.Openat(root, ownGroupName+"/cgroup.procs", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	_, err = unix.Write(fd, []byte("0"))
	return errors.Join(os.NewSyscallError("write", err), unix.Close(fd))
}

// RemoveControlGroup removes the daemons' control group, unless a daemon is in it.
func RemoveControlGroup() {
	if root, err := openControlGroups(); err == nil {
		_ = unix.Unlinkat(root, ownGroupName, unix.AT_REMOVEDIR)
		_ = unix.Close(root) // nothing was written
	}
}

// controlGroups reads /proc/self/cgroup: the group in the hierarchy of version 2, and in that of
// version 1 where systemd still has one; empty: none but the root.
func controlGroups(text string) (group, old string) {
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		switch {
		case len(fields) != 3:
		case fields[0] == "0":
			group = fields[2]
		case fields[1] == "name=systemd" && fields[2] != "/":
			old = fields[2]
		}
	}
	return group, old
}
