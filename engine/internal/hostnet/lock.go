// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/sleep"
	"github.com/nftnat/nftnat/internal/peercred"
	"github.com/nftnat/nftnat/nat"
)

// Lock reserves a table for one engine: a listening unix socket with an abstract name that
// contains the table's (unix(7)). Like the table, the name belongs to the network
// namespace. It ends with its process, and the kernel can name the process. A nil *Lock
// holds nothing.
type Lock struct{ listener *net.UnixListener }

// lockAttempts bounds the attempts of an engine that does not wait, if the holder cannot be
// identified: the lock was just released, or a process has bound the name and does not
// listen. lockPause is the pause between attempts.
const (
	lockAttempts = 50
	lockPause    = time.Millisecond
)

// LockTable takes the lock. It waits for it until the context is done, but not longer than
// wait; then the error is a *nat.OwnedError.
func LockTable(ctx context.Context, ns *Namespace, table string, wait time.Duration) (*Lock, error) {
	name := &net.UnixAddr{Name: "@nftnat/" + table, Net: "unix"}
	deadline := time.Now().Add(wait)
	for attempt := 1; ; attempt++ {
		var listener *net.UnixListener
		err := ns.Do(func() (err error) {
			listener, err = net.ListenUnix("unix", name)
			return err
		})
		if err == nil {
			return &Lock{listener}, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("lock table %s: %w", table, err)
		}
		holder, err := awaitHolder(ctx, ns, name, deadline)
		if err != nil {
			return nil, fmt.Errorf("lock table %s: %w", table, err)
		}
		late := !time.Now().Before(deadline)
		switch {
		case late && holder != nil:
			return nil, &nat.OwnedError{Table: table, PID: int(holder.Pid), UID: int(holder.Uid)}
		case late && attempt >= lockAttempts:
			return nil, &nat.OwnedError{Table: table}
		}
		if err := sleep.For(ctx, lockPause); err != nil {
			return nil, fmt.Errorf("lock table %s: %w", table, err)
		}
	}
}

// awaitHolder connects to the lock's holder, asks the kernel who it is, and waits until it
// closes the lock, or the deadline or the context is over. The holder never accepts: the
// kernel resets the waiting connection when the listening socket is closed. A nil holder
// means that the lock was released before it could be asked.
func awaitHolder(ctx context.Context, ns *Namespace, name *net.UnixAddr, deadline time.Time) (*unix.Ucred, error) {
	var c *net.UnixConn
	err := ns.Do(func() (err error) {
		c, err = net.DialUnix("unix", nil, name)
		return err
	})
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return nil, nil
	case errors.Is(err, unix.EAGAIN): // its queue is full of waiting processes
		return &unix.Ucred{}, nil
	case err != nil:
		return nil, err
	}
	holder, err := peercred.Get(c)
	if err == nil && time.Now().Before(deadline) {
		err = c.SetReadDeadline(deadline)
		stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
		defer stop()
		// The result does not matter: the lock is tried again, or the time is up.
		_, _ = c.Read(make([]byte, 1))
	}
	return &holder, errors.Join(err, c.Close())
}

// TakeLock makes a lock of the socket that another process has passed on. It closes fd.
func TakeLock(fd int) (*Lock, error) {
	f := os.NewFile(uintptr(fd), "lock")
	defer func() { _ = f.Close() }() // the listener has a descriptor of its own
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take lock: %w", err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("take lock: %s is no unix socket", l.Addr()), l.Close())
	}
	lock := &Lock{u}
	if err := lock.Sign(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// Sign makes this process the one that the kernel names as the holder: it is the one that
// called listen last (unix_listen in net/unix/af_unix.c).
func (l *Lock) Sign() error {
	return l.control(func(fd int) error { return os.NewSyscallError("listen", unix.Listen(fd, unix.SOMAXCONN)) })
}

// FD returns the descriptor of the lock, which stays open with it; zero if there is none.
func (l *Lock) FD() (fd int, err error) {
	err = l.control(func(n int) error { fd = n; return nil })
	return fd, err
}

func (l *Lock) control(f func(fd int) error) error {
	if l == nil {
		return nil
	}
	raw, err := l.listener.SyscallConn()
	if err != nil {
		return err
	}
	control := raw.Control(func(fd uintptr) { err = f(int(fd)) })
	return errors.Join(control, err)
}

// Close releases the lock.
func (l *Lock) Close() error {
	if l == nil {
		return nil
	}
	return l.listener.Close()
}
