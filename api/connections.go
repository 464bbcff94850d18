// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"syscall"
)

// conn is a connection that was accepted.
type conn struct {
	*net.UnixConn
	client peer
	// refusal is why the client may not use the socket; nil: it may. The connection is
	// accepted so that the client gets an answer.
	refusal error
}

// connKey is the key of a connection in the contexts of its requests.
type connKey struct{}

// withConn returns the context of the requests of a connection to the socket at path.
func withConn(ctx context.Context, nc net.Conn, path string) context.Context {
	c := &conn{}
	var ok bool
	if c.UnixConn, ok = nc.(*net.UnixConn); ok {
		c.client, c.refusal = admissible(c.UnixConn, path)
	} else {
		c.refusal = fmt.Errorf("%T is no unix socket: %w", nc, fs.ErrPermission)
	}
	return context.WithValue(ctx, connKey{}, c)
}

// connOf returns the connection of a request; nil: it did not come by way of Server.Serve.
func connOf(ctx context.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn)
	return c
}

// peer is the process that called connect on the other end of a socket, as it was then.
type peer struct {
	pid      int32 // 0: in another PID namespace
	uid, gid uint32
	groups   []uint32
}

// admissible returns the process that made a connection, and an error if it may not use the
// socket at path. Root, the server's own user and members of the group of the socket's file
// may. The modes of the file and its directory say the same, unless somebody has changed them.
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
	return p, errNotAllowed(p.uid)
}

func (p peer) member(group uint32) bool { return p.gid == group || slices.Contains(p.groups, group) }

func errNotAllowed(uid uint32) error {
	return fmt.Errorf("user %d may not use this socket: %w", uid, fs.ErrPermission)
}
