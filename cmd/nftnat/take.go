// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/handover"
)

// inheritance is what the daemon that is succeeded has handed over. Nil is of nobody.
type inheritance struct {
	conn    *handover.Conn
	sockets engine.Sockets
	api     *lentListener
	scraped *lentListener
	// over is whether the other one has nothing to go on with any more, or has gone on.
	over bool
	stop func() bool
}

// lentListener is one that this process has not taken yet.
type lentListener struct {
	fd      int
	address string
	made    bool // its file was made by a daemon
}

func (l *lentListener) close() {
	if l != nil {
		_ = unix.Close(l.fd) // frees it whatever it returns (close(2))
	}
}

// takeOverAttempts bounds how often a daemon is asked that ends, or that hands over to
// somebody else, before it has begun.
const takeOverAttempts = 5

// takeOver asks the daemon that runs to hand over. Nil: none runs.
func (g *global) takeOver(ctx context.Context, netns uint64) (*inheritance, error) {
	var err error
	for range takeOverAttempts {
		var from *inheritance
		if from, err = g.takeOverOnce(ctx, netns); !errors.Is(err, io.EOF) || ctx.Err() != nil {
			return from, err
		}
	}
	return nil, err
}

// takeOverOnce is one attempt. io.EOF: the daemon has ended before it sent anything.
func (g *global) takeOverOnce(ctx context.Context, netns uint64) (*inheritance, error) {
	client, _, err := g.locate(ctx)
	if errors.Is(err, api.ErrNoServer) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	status, err := client.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	if status.NetNS != netns || status.Table.Name != g.table {
		return nil, usageError{fmt.Errorf("take over: the daemon there has table %s of network namespace %d", status.Table.Name, status.NetNS)}
	}
	nc, err := client.Handover(ctx)
	switch {
	case errors.Is(err, fs.ErrPermission):
		err = hintedError{err, "run it as root, or as the user of the daemon"}
	case errors.Is(err, errors.ErrUnsupported):
		err = fmt.Errorf("the daemon, pid %d, is of version %s, which cannot hand over: end it, and start this one", status.PID, status.Version)
	}
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	conn, err := handover.NewConn(nc)
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	from := &inheritance{conn: conn, stop: context.AfterFunc(ctx, conn.Interrupt)}
	sockets, err := conn.Ask()
	if sortErr := from.sort(sockets); err == nil {
		err = sortErr
	}
	switch {
	case err == nil:
		return from, nil
	case errors.Is(err, io.EOF) && len(sockets) != 0:
		// It has been killed: what it has sent is better than nothing.
		return from, nil
	}
	err = fmt.Errorf("take over: %w", err)
	from.end(err)
	return nil, err
}

// engine is what an engine is opened with.
func (i *inheritance) engine() *engine.Sockets {
	if i == nil {
		return nil
	}
	s := i.sockets
	i.sockets = engine.Sockets{} // the engine's, from here on
	return &s
}

// listener takes the listener of the API. Nil: there is none.
func (i *inheritance) listener(group int) (net.Listener, error) {
	if i == nil || i.api == nil {
		return nil, nil
	}
	l := i.api
	i.api = nil
	if !l.made && group != ownGroup {
		l.close()
		return nil, usageError{errors.New("--group is for a socket that the daemon makes; SocketGroup= is that of a unit's")}
	}
	return api.Inherit(l.fd, l.address, l.made, group)
}

// metrics takes the listener for metrics, if it is at that address. Nil: it is not.
func (i *inheritance) metrics(address string) *keptListener {
	if i == nil || i.scraped == nil {
		return nil
	}
	want, err := net.ResolveTCPAddr("tcp", address)
	if err != nil || want.String() != i.scraped.address {
		return nil
	}
	f := os.NewFile(uintptr(i.scraped.fd), "metrics")
	i.scraped = nil
	l, err := net.FileListener(f)
	if closeErr := f.Close(); err != nil || closeErr != nil {
		return nil
	}
	t, ok := l.(*net.TCPListener)
	if !ok {
		_ = l.Close()
		return nil
	}
	return &keptListener{t}
}

// accept is when this process could serve: it returns when it may.
func (i *inheritance) accept() error {
	if i == nil {
		return nil
	}
	if err := i.conn.Accept(); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	i.over = true
	i.closeListeners() // what is not wanted here is nobody's from now on
	return nil
}

// finish is when this process serves the ports: it returns when the other one does not
// any more. Only then are changes to be made. Until then a port that is unpublished still
// has the other one's proxy, and cannot be published again.
func (i *inheritance) finish(log *slog.Logger) {
	if i == nil {
		return
	}
	if err := i.conn.Finish(); err != nil {
		log.Warn("the previous daemon may still be running", "error", err)
	}
}

// end closes what has not been taken, and, if this process does not take over, lets the
// other one go on, which is told why.
func (i *inheritance) end(reason error) {
	if i == nil {
		return
	}
	i.stop()
	i.closeSockets()
	i.closeListeners()
	if i.over {
		_ = i.conn.Close()
		return
	}
	if reason == nil {
		reason = errors.New("it was told to end")
	}
	_ = i.conn.Refuse(reason) // the reason is told by whoever has it
}

// closeListeners closes those that have not been taken.
func (i *inheritance) closeListeners() {
	i.api.close()
	i.scraped.close()
	i.api, i.scraped = nil, nil
}

// closeListener closes a listener at the end of this process. Its file stays if the other
// one goes on.
func (i *inheritance) closeListener(l net.Listener) error {
	if i != nil && !i.over {
		return api.Abandon(l)
	}
	return l.Close()
}
