// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"

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

// filter is the program that allows the calls. It asks for one after another, those that
// are made most first. On most architectures that matters for those alone whose
// arguments are looked at: the kernel runs the program once for each number and remembers
// what is allowed in any case (SECCOMP_ARCH_NATIVE_NR, since Linux 5.11).
func filter(arch uint32, calls []call) []unix.SockFilter {
	// A call of another architecture has another meaning with the same number.
	p := []unix.SockFilter{load(dataArch), {Code: jumpIs, K: arch, Jt: 1}, refuse(unix.EPERM), load(dataNumber)}
	for _, c := range calls {
		body := c.body()
		p = append(append(p, unless(c.number, len(body))), body...)
	}
	// C libraries fall back to clone(2), whose flags can be looked at, if there is no
	// clone3(2).
	p = append(p, unless(unix.SYS_CLONE3, 1), refuse(unix.ENOSYS))
	return append(p, refuse(unix.EPERM))
}

// body is what is asked when the number fits.
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

// offset is where the lower half of the argument is.
func (a argument) offset() uint32 {
	offset := dataArguments + 8*a.index
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 { // the upper half comes first
		offset += 4
	}
	return offset
}

// filterCalls puts the filter in force and returns how many calls it allows.
func filterCalls(o Options) (int, error) {
	arch, calls := native(uint32(os.Getpid()), o)
	if arch == 0 {
		return 0, fmt.Errorf("there is no list for %s: %w", runtime.GOARCH, errors.ErrUnsupported)
	}
	return len(calls), setFilter(filter(arch, calls))
}
