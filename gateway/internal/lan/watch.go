// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// watcher waits for the kernel's notifications about links and addresses.
type watcher struct{ file *os.File }

func newWatcher() (*watcher, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{
			Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR,
		})
		if err != nil {
			err = errors.Join(err, unix.Close(fd))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("watch addresses: %w", err)
	}
	return &watcher{os.NewFile(uintptr(fd), "rtnetlink")}, nil
}

func (w *watcher) close() { _ = w.file.Close() } // nothing was written

// settleTime is how long further notifications are waited for after one, since they come in groups, and mostSettled how
// many are.
const (
	settleTime  = 30 * time.Millisecond
	mostSettled = 20
)

// run calls changed after notifications, and again after the time that it returns unless that is zero. It returns nil when ctx
// is done.
func (w *watcher) run(ctx context.Context, changed func() time.Duration) error {
	stop := context.AfterFunc(ctx, func() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 8<<10)
	again := changed()
	for {
		var deadline time.Time
		if again != 0 {
			deadline = time.Now().Add(again)
		}
		err := w.read(ctx, buf, deadline)
		for n := 0; err == nil && n < mostSettled; n++ { // until none comes for a moment
			err = w.read(ctx, buf, time.Now().Add(settleTime))
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("watch addresses: %w", err)
		}
		again = changed()
	}
}

// read waits for notifications. What they say is read again anyway, and lost ones are as good as any.
func (w *watcher) read(ctx context.Context, buf []byte, deadline time.Time) error {
	_ = w.file.SetReadDeadline(deadline) // a socket has them
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := w.file.Read(buf)
	if errors.Is(err, syscall.ENOBUFS) {
		return nil
	}
	return err
}
