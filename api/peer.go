// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"syscall"
	"unsafe"
)

// peer is who called connect on the other end of a socket, as he was at that moment.
type peer struct {
	pid      int32 // 0: in another PID namespace
	uid, gid uint32
	groups   []uint32
}

// admissible returns the process that has made a connection, and why it may not use the
// socket at path, or nil: root, the server's own user, and members of the group of the socket's file
// may. The file's mode says the same, unless somebody has loosened it, or the
// directory's.
func admissible(nc *net.UnixConn, path string) (client peer, refusal error) {
	p, err := peerOf(nc)
	if err != nil {
		return peer{}, fmt.Errorf("ask who the client is: %w: %w", fs.ErrPermission, err)
	}
	if p.uid == 0 || int64(p.uid) == int64(os.Geteuid()) {
		return p, nil
	}
	// Each time, as its group may be changed while the server runs. A socket
	// without a file (unix(7), abstract) has no group.
	var file syscall.Stat_t
	if err := syscall.Lstat(path, &file); err == nil && p.member(file.Gid) {
		return p, nil
	}
	return p, &notAllowedError{uid: p.uid}
}

func (p peer) member(group uint32) bool { return p.gid == group || slices.Contains(p.groups, group) }

// notAllowedError tells a client that it may not use the socket.
type notAllowedError struct{ uid uint32 }

func (e *notAllowedError) Error() string {
	return fmt.Sprintf("user %d may not use this socket: permission denied", e.uid)
}

func (e *notAllowedError) Unwrap() error { return fs.ErrPermission }

// peerOf asks the kernel who the client is.
func peerOf(nc *net.UnixConn) (p peer, err error) {
	raw, err := nc.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		var cred *syscall.Ucred
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		if err != nil {
			err = os.NewSyscallError("getsockopt SO_PEERCRED", err)
			return
		}
		p = peer{pid: cred.Pid, uid: cred.Uid, gid: cred.Gid}
		p.groups, err = peerGroups(fd)
	})
	return p, errors.Join(controlErr, err)
}

// soPeerGroups is SO_PEERGROUPS (include/uapi/asm-generic/socket.h, and the same in
// arch/mips), which package syscall does not have.
const soPeerGroups = 59

// peerGroups returns the client's supplementary groups (SO_PEERGROUPS, since Linux
// 4.13; net/core/sock.c, sk_getsockopt).
func peerGroups(fd uintptr) ([]uint32, error) {
	groups := make([]uint32, 32)
	// A second attempt is enough: the groups of a connection never change.
	for range 2 {
		size := uint32(len(groups)) * uint32(unsafe.Sizeof(groups[0])) // a socklen_t
		_, _, errno := syscall.Syscall6(sysGetsockopt, fd, syscall.SOL_SOCKET, soPeerGroups,
			uintptr(unsafe.Pointer(unsafe.SliceData(groups))), uintptr(unsafe.Pointer(&size)), 0)
		n := int(size) / int(unsafe.Sizeof(groups[0]))
		if errno == 0 {
			return groups[:n], nil
		}
		if errno == syscall.ENODATA { // the other end never had any
			return nil, nil
		}
		if errno != syscall.ERANGE {
			return nil, os.NewSyscallError("getsockopt SO_PEERGROUPS", errno)
		}
		groups = make([]uint32, n) // what the kernel has set size to
	}
	return nil, os.NewSyscallError("getsockopt SO_PEERGROUPS", syscall.ERANGE)
}
