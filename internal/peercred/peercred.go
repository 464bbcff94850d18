// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package peercred asks the kernel which process is at the other end of a Unix socket:
// the one that called connect or listen there, as it was at that moment (unix(7)). It may
// have ended since, and its number may be another's.
package peercred

import (
	"errors"
	"net"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Get returns the process, its user and its group (SO_PEERCRED). The process is zero if
// it is of another PID namespace.
func Get(c *net.UnixConn) (cred unix.Ucred, err error) {
	err = control(c, "getsockopt SO_PEERCRED", func(fd int) error {
		p, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil {
			cred = *p
		}
		return err
	})
	return cred, err
}

// Groups returns the supplementary groups of the process (SO_PEERGROUPS, since Linux 4.13;
// net/core/sock.c, sk_getsockopt).
func Groups(c *net.UnixConn) (groups []uint32, err error) {
	err = control(c, "getsockopt SO_PEERGROUPS", func(fd int) error {
		groups = make([]uint32, 32)
		// A second attempt is enough: the groups of a connection never change.
		for range 2 {
			size := uint32(len(groups)) * uint32(unsafe.Sizeof(groups[0])) // a socklen_t
			_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
				uintptr(unsafe.Pointer(unsafe.SliceData(groups))), uintptr(unsafe.Pointer(&size)), 0)
			n := int(size) / int(unsafe.Sizeof(groups[0]))
			if errno == 0 {
				groups = groups[:n]
				return nil
			}
			if errno == unix.ENODATA { // none, as of a process that never called setgroups
				groups = nil
				return nil
			}
			if errno != unix.ERANGE {
				return errno
			}
			groups = make([]uint32, n) // the kernel has set size to what it needs
		}
		return unix.ERANGE
	})
	return groups, err
}

// control calls f with the descriptor of c; what names the system call in f's error.
func control(c *net.UnixConn, what string, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	closed := raw.Control(func(fd uintptr) { err = f(int(fd)) })
	return errors.Join(closed, os.NewSyscallError(what, err))
}
