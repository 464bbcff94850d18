// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// connections accepts a bounded number of connections at once. Further clients wait in the
// kernel's queue until one ends.
type connections struct {
	net.Listener
	slots chan struct{} // has an element for each connection
	ended chan struct{} // closed when no more are accepted

	mu   sync.Mutex
	open map[*conn]struct{}
}

func newConnections(l net.Listener, most int) *connections {
	return &connections{
		Listener: l, slots: make(chan struct{}, most), ended: make(chan struct{}), open: map[*conn]struct{}{},
	}
}

// conn is an accepted connection.
type conn struct {
	*net.UnixConn
	of     *connections
	client peer
	// refusal is why the client may not use the socket; nil: it may. The connection is
	// accepted so that the client gets an answer.
	refusal error

	// Guarded by of.mu:
	asked bool // its first request has come
	busy  bool // a request is being answered
}

// Accept returns a *conn.
func (cs *connections) Accept() (net.Conn, error) {
	select {
	case cs.slots <- struct{}{}:
	case <-cs.ended:
		return nil, net.ErrClosed
	}
	accepted, err := cs.Listener.Accept()
	nc, ok := accepted.(*net.UnixConn)
	if err == nil && !ok {
		err = errors.Join(fmt.Errorf("accept: %T is no unix socket", accepted), accepted.Close())
	}
	if err != nil {
		<-cs.slots
		select {
		case <-cs.ended:
			err = net.ErrClosed
		default:
		}
		return nil, err
	}
	c := &conn{UnixConn: nc, of: cs}
	c.client, c.refusal = admissible(nc, cs.Addr().String())
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.open[c] = struct{}{}
	return c, nil
}

// Close closes the connection, and makes room for another one.
func (c *conn) Close() error {
	c.release()
	return c.UnixConn.Close()
}

// release makes room for another connection. Releasing again does nothing.
func (c *conn) release() {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if _, ok := c.of.open[c]; ok {
		delete(c.of.open, c)
		<-c.of.slots
	}
}

// setBusy is called when a whole header has come, and when the answer has been sent.
func (c *conn) setBusy(busy bool) {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.asked, c.busy = true, busy
}

// Close accepts no more connections, and closes the listener, unless it was left to another
// process. Closing again does nothing. net/http calls it when it stops serving.
func (cs *connections) Close() error {
	if !cs.stop() {
		return nil
	}
	return cs.Listener.Close()
}

// stop accepts no more connections. It reports whether it is the first call.
func (cs *connections) stop() bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	select {
	case <-cs.ended:
		return false
	default:
		close(cs.ended)
		return true
	}
}

// closeSilent closes the connections that have sent half a header or nothing; net/http
// would wait for them.
func (cs *connections) closeSilent() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for c := range cs.open {
		if !c.busy {
			_ = c.UnixConn.Close() // net/http calls Close
		}
	}
}

// leave accepts no more connections, and leaves the listener open. It waits until the server
// has stopped, and then for the first request of each connection, up to timeout.
//
// A listener can be open in two processes at once (unix(7), SCM_RIGHTS). They share the queue
// of connections that neither has accepted, so that no client is refused.
func (cs *connections) leave(served <-chan error, timeout time.Duration) error {
	d, ok := cs.Listener.(interface{ SetDeadline(t time.Time) error })
	if !ok {
		return fmt.Errorf("%T cannot be left to others", cs.Listener)
	}
	cs.stop()
	if err := d.SetDeadline(time.Unix(1, 0)); err != nil {
		return err
	}
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		return err
	}
	for late := time.Now().Add(timeout); cs.awaitsRequest() && time.Now().Before(late); {
		time.Sleep(time.Millisecond)
	}
	// This process may serve it again.
	return d.SetDeadline(time.Time{})
}

func (cs *connections) awaitsRequest() bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for c := range cs.open {
		if !c.asked {
			return true
		}
	}
	return false
}

// connKey is the key of a connection in the contexts of its requests.
type connKey struct{}

func withConn(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, nc)
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
