// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"syscall"
)

// peer is the process that called connect on the other end of a socket, as it was then.
type peer struct {
	pid      int32 // 0: in another PID namespace
	uid, gid uint32
	groups   []uint32
}

// admissible returns the process that made a connection, and nil if it may use the socket
// at path, or why not. Root, the server's own user and members of the group of the socket's
// file may. The file's mode says the same, unless somebody has loosened it, or that of the
// directory.
func admissible(nc *net.UnixConn, path string) (client peer, refusal error) {
	p, err := peerOf(nc)
	if err != nil {
		return peer{}, fmt.Errorf("ask who the client is: %w: %w", fs.ErrPermission, err)
	}
	if p.uid == 0 || int64(p.uid) == int64(os.Geteuid()) {
		return p, nil
	}
	// The group may change while the server runs. A socket without a file (unix(7),
	// abstract) has none.
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
