// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/peercred"
	"github.com/nftnat/nftnat/nat"
)

// tableLock holds a table for one engine: a listening socket with an abstract name
// made of the table's (unix(7)). The name belongs to the network namespace, as the
// table does; it is gone with its process, however that ends; and whoever finds it
// taken can ask the kernel whose it is.
type tableLock struct{ listener *net.UnixListener }

// lockAttempts bounds how often an engine that does not wait asks for a lock which
// nobody answers for: it was given up at that moment, or its name was bound by a
// process that does not listen. lockPause is between one attempt and the next, also
// of those who wait.
const (
	lockAttempts = 50
	lockPause    = time.Millisecond
)

// lockTable takes the lock, or waits for it as long as it may. The error is an
// *OwnedError if another process keeps it.
func lockTable(ns *namespace, table string, wait time.Duration) (*tableLock, error) {
	name := &net.UnixAddr{Name: "@nftnat/" + table, Net: "unix"}
	deadline := time.Now().Add(wait)
	for attempt := 1; ; attempt++ {
		var listener *net.UnixListener
		err := ns.do(func() (err error) {
			listener, err = net.ListenUnix("unix", name)
			return err
		})
		if err == nil {
			return &tableLock{listener}, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("lock table %s: %w", table, err)
		}
		holder, err := awaitHolder(ns, name, deadline)
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
		time.Sleep(lockPause)
	}
}

// awaitHolder connects to the lock's holder, asks the kernel who it is, and waits
// until it closes the lock or the deadline is over. The holder never accepts: the
// kernel resets the waiting connection when the listening socket is closed. A nil
// holder means that the lock was given up before it could be asked.
func awaitHolder(ns *namespace, name *net.UnixAddr, deadline time.Time) (*unix.Ucred, error) {
	var c *net.UnixConn
	err := ns.do(func() (err error) {
		c, err = net.DialUnix("unix", nil, name)
		return err
	})
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return nil, nil
	case errors.Is(err, unix.EAGAIN): // its queue is full of waiters
		return &unix.Ucred{}, nil
	case err != nil:
		return nil, err
	}
	holder, err := peercred.Get(c)
	if err == nil && time.Now().Before(deadline) {
		err = c.SetReadDeadline(deadline)
		// Any end of the read means: try again, or the time is up.
		_, _ = c.Read(make([]byte, 1))
	}
	return &holder, errors.Join(err, c.Close())
}

func (l *tableLock) close() error {
	if l == nil {
		return nil
	}
	return l.listener.Close()
}
