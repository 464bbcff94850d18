// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attempts bounds how often a program is loaded that the kernel did not finish checking because of a
// signal.
const attempts = 30

// call calls the kernel, with the fields of union bpf_attr that a command has.
func call[A any](command uintptr, attr *A) (int, error) {
	for n := 1; ; n++ {
		r, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
		runtime.KeepAlive(attr)
		switch {
		case errno == 0:
			return int(r), nil
		case errno != unix.EAGAIN || command != unix.BPF_PROG_LOAD || n == attempts:
			return 0, errno
		}
	}
}

// at points to the first of some bytes.
func at(b []byte) pointer { return pointer{to: unsafe.Pointer(unsafe.SliceData(b))} }

// nameLen is how long names are in the kernel, with a zero at their end.
const nameLen = 16

// name is the name of an object, cut to what the kernel takes.
func name(s string) (n [nameLen]byte) {
	copy(n[:len(n)-1], s)
	return n
}

// descriptor is an open object.
type descriptor struct{ fd int }

// FD is the number of the descriptor.
func (d *descriptor) FD() int { return d.fd }

// Close closes the descriptor. Closing again does nothing.
func (d *descriptor) Close() error {
	if d.fd < 0 {
		return nil
	}
	fd := d.fd
	d.fd = -1
	return unix.Close(fd)
}

// info fills what the kernel tells of an object.
func info[T any](fd int, to *T) error {
	attr := struct {
		fd, size uint32
		info     pointer
	}{uint32(fd), uint32(unsafe.Sizeof(*to)), pointer{to: unsafe.Pointer(to)}}
	_, err := call(unix.BPF_OBJ_GET_INFO_BY_FD, &attr)
	return err
}
