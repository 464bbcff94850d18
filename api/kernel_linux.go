// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/peercred"
)

// peerOf asks the kernel who the client is.
func peerOf(nc *net.UnixConn) (p peer, err error) {
	cred, err := peercred.Get(nc)
	if err != nil {
		return peer{}, err
	}
	groups, err := peercred.Groups(nc)
	return peer{pid: cred.Pid, uid: cred.Uid, gid: cred.Gid, groups: groups}, err
}

// takeQueued lets in who is in the queue of a listener, whatever its deadline. It does not wait.
func takeQueued(l *net.UnixListener) (net.Conn, error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	controlErr := raw.Control(func(listening uintptr) {
		fd, _, err = unix.Accept4(int(listening), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	})
	if err = errors.Join(controlErr, err); err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "")
	c, err := net.FileConn(f)
	return c, errors.Join(err, f.Close())
}
