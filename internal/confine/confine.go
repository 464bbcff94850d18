// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"unsafe"

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
	// Maps keeps the commands of bpf(2) that read and write maps that are open.
	Maps bool
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

// allThreads makes a system call on every thread of the process. Variables whose addresses it is
// given must be on the heap, since a stack may move before the call.
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

// Capability is a capability's number (include/uapi/linux/capability.h).
type Capability uint8

// The capabilities that a daemon of sockets and netfilter may want.
const (
	DACOverride    Capability = unix.CAP_DAC_OVERRIDE
	NetAdmin       Capability = unix.CAP_NET_ADMIN
	NetBindService Capability = unix.CAP_NET_BIND_SERVICE
	SysAdmin       Capability = unix.CAP_SYS_ADMIN
)

// String is the name as capabilities(7) has it.
func (c Capability) String() string {
	names := map[Capability]string{
		DACOverride: "CAP_DAC_OVERRIDE", NetAdmin: "CAP_NET_ADMIN",
		NetBindService: "CAP_NET_BIND_SERVICE", SysAdmin: "CAP_SYS_ADMIN",
	}
	if name := names[c]; name != "" {
		return name
	}
	return fmt.Sprintf("capability %d", uint8(c))
}

// capabilitySets is what the third version of capset(2) takes: 64 bits of each set.
type capabilitySets [2]unix.CapUserData

// keepCapabilities drops all capabilities but some, and returns those that are left.
func keepCapabilities(keep []Capability) ([]Capability, error) {
	var have, want capabilitySets
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // Pid 0: the calling thread
	if err := unix.Capget(&header, &have[0]); err != nil {
		return nil, err
	}
	var left []Capability
	for _, c := range keep {
		word, bit := c/32, uint32(1)<<(c%32)
		if have[word].Permitted&bit != 0 {
			want[word].Permitted |= bit
			want[word].Effective |= bit
			left = append(left, c)
		}
	}
	// First, since it needs a capability (CAP_SETPCAP).
	if err := boundCapabilities(keep); err != nil {
		return nil, err
	}
	// Capabilities that are not inheritable leave the ambient set as well (capabilities(7)).
	err := allThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&want)))
	if err != nil {
		return nil, err
	}
	slices.Sort(left)
	return left, nil
}

// boundCapabilities drops the other capabilities from the bounding set. A process that may not do
// that keeps the set: it can execute nothing that would gain from it.
func boundCapabilities(keep []Capability) error {
	for c := Capability(0); ; c++ {
		is, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) { // the kernel has no more
			return nil
		}
		if err != nil {
			return err
		}
		if is == 0 || slices.Contains(keep, c) {
			continue
		}
		err = allThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c))
		if errors.Is(err, unix.EPERM) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
