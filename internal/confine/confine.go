// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// Options say what a process keeps. With the zero value it keeps its open files, its memory, and new
// sockets without privilege.
type Options struct {
	// Capabilities are kept, if the process has them. Nil: none.
	Capabilities []Capability
	// Files can still be opened. Nil: none. Paths that do not exist are left out.
	Files []PathRule
	// Namespaces keeps the call by which a thread enters another network namespace,
	// setns(2), which needs CAP_SYS_ADMIN as well.
	Namespaces bool
}

// Report is what is in force.
type Report struct {
	// Dropped is whether capabilities were dropped, and Capabilities what the process is
	// left with then; nil: none.
	Dropped      bool
	Capabilities []Capability
	// NoNewPrivileges is whether nothing that is executed can gain any.
	NoNewPrivileges bool
	// Landlock is the version of Landlock's interface by which files are restricted;
	// 0: they are not.
	Landlock int
	// SystemCalls is how many system calls can be made; 0: all of them.
	SystemCalls int
	// Missing are the parts that are not in force, and why. Nil: all are.
	Missing []error
}

// Apply confines the process. It does not fail as a whole: what could not be put in
// force is in the report. It must be called at most once.
func Apply(o Options) Report {
	var r Report
	miss := func(part string, err error) bool {
		if err != nil {
			r.Missing = append(r.Missing, fmt.Errorf("restrict %s: %w", part, err))
		}
		return err == nil
	}
	// Landlock and the filter would need CAP_SYS_ADMIN without it. If it cannot be set for all
	// threads, the filter sets it.
	alone := noNewPrivileges()
	r.NoNewPrivileges = alone == nil
	abi, err := 0, alone
	if err == nil {
		abi, err = restrictFiles(o.Files)
	}
	if miss("files", err) {
		r.Landlock = abi
	}
	kept, err := keepCapabilities(o.Capabilities)
	if miss("capabilities", err) {
		r.Dropped, r.Capabilities = true, kept
	}
	n, err := filterCalls(o)
	if miss("system calls", err) {
		r.SystemCalls, r.NoNewPrivileges = n, true
	}
	return r
}

// noNewPrivileges sets the flag for all threads, or, with an error, for the calling one, which then
// installs the filter.
func noNewPrivileges() error {
	err := allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1)
	if err == nil {
		return nil
	}
	return errors.Join(err, unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
}

// ErrCgo is why a part needs another build. It is errors.ErrUnsupported.
var ErrCgo error = cgoError{}

// cgoError is a type, since fmt.Errorf would take time at each start of the program.
type cgoError struct{}

func (cgoError) Error() string {
	return "the program was not built with CGO_ENABLED=0: unsupported operation"
}

func (cgoError) Unwrap() error { return errors.ErrUnsupported }

// allThreads makes a system call on every thread of the process.
//
//go:uintptrescapes
func allThreads(trap, a1, a2 uintptr) error {
	_, _, e := syscall.AllThreadsSyscall(trap, a1, a2, 0)
	if e == syscall.ENOTSUP { // the runtime may not know all threads
		return ErrCgo
	}
	if e != 0 {
		return e
	}
	return nil
}

// Enter moves the whole process into the network namespace at path. Unlike a process whose threads
// visit a namespace, it needs no privilege for that later. Open sockets stay where they are.
//
// Errors: fs.ErrPermission without CAP_SYS_ADMIN; fs.ErrNotExist; ErrCgo. Nothing has changed then.
func Enter(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(allThreads(unix.SYS_SETNS, uintptr(fd), unix.CLONE_NEWNET), unix.Close(fd))
	}
	if err != nil {
		return fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	return nil
}
