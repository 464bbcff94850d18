// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call is a system call that is allowed.
type call struct {
	number uint32
	// only restricts an argument; nil: all are allowed.
	only *argument
}

// argument is what an argument of a call has to be: one of the values under the mask. All
// that are restricted are ints for the kernel: it does not look at the upper half.
type argument struct {
	index  uint32
	mask   uint32
	values []uint32
}

// Offsets in struct seccomp_data (include/uapi/linux/seccomp.h).
const (
	dataNumber    = 0
	dataArch      = 4
	dataArguments = 16
)

// Statements of BPF that the filter is made of.
const (
	loadWord = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	and      = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	jumpIs   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	end      = unix.BPF_RET | unix.BPF_K
)

// refuse ends a filter: the call fails with an errno.
func refuse(e unix.Errno) unix.SockFilter {
	return unix.SockFilter{Code: end, K: unix.SECCOMP_RET_ERRNO | uint32(e)}
}

func permit() unix.SockFilter { return unix.SockFilter{Code: end, K: unix.SECCOMP_RET_ALLOW} }

func load(offset uint32) unix.SockFilter { return unix.SockFilter{Code: loadWord, K: offset} }

// unless skips the next n statements unless the word is k.
func unless(k uint32, n int) unix.SockFilter {
	return unix.SockFilter{Code: jumpIs, K: k, Jf: uint8(n)}
}

// filter is the program that allows the calls. It compares the number of a call with one
// after another. That takes time only for calls whose arguments are looked at: the kernel
// runs the program once for each number, and remembers those that are allowed in any case
// (SECCOMP_ARCH_NATIVE_NR, since Linux 5.11).
func filter(calls []call) []unix.SockFilter {
	// A call of another architecture has another meaning with the same number.
	p := []unix.SockFilter{
		load(dataArch), {Code: jumpIs, K: nativeArch, Jt: 1}, refuse(unix.EPERM), load(dataNumber),
	}
	for _, c := range calls {
		body := c.body()
		p = append(append(p, unless(c.number, len(body))), body...)
	}
	// C libraries fall back to clone(2), whose flags can be looked at, if there is no
	// clone3(2).
	p = append(p, unless(unix.SYS_CLONE3, 1), refuse(unix.ENOSYS))
	return append(p, refuse(unix.EPERM))
}

// body is the part of the filter that runs when the number is that of the call.
func (c call) body() []unix.SockFilter {
	if c.only == nil {
		return []unix.SockFilter{permit()}
	}
	body := []unix.SockFilter{load(c.only.offset()), {Code: and, K: c.only.mask}}
	for _, v := range c.only.values {
		body = append(body, unless(v, 1), permit())
	}
	return append(body, refuse(unix.EPERM))
}

// offset is where the lower half of the argument is: the list is of a little-endian processor.
func (a argument) offset() uint32 { return dataArguments + 8*a.index }

// filterCalls puts the filter in force and returns how many calls it allows.
func filterCalls(o Options) (int, error) {
	calls := allowedCalls(uint32(os.Getpid()), o)
	if calls == nil {
		return 0, fmt.Errorf("there is no list for %s: %w", runtime.GOARCH, errors.ErrUnsupported)
	}
	return len(calls), setFilter(filter(calls))
}

// setFilter is seccomp(2) for all threads. The kernel logs what is refused. The process runs
// no code but its own, so that it does without the slow guards against speculation that
// kernels before 5.16 add to a filter.
func setFilter(program []unix.SockFilter) error {
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: unsafe.SliceData(program)}
	const flags = unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_LOG | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	thread, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	switch {
	case e != 0:
		return e
	case thread != 0: // which has a filter of its own
		return unix.EBUSY
	}
	return nil
}
