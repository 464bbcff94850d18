// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Watch calls changed at once, and again whenever another socket may have changed the
// table: after each commit of such a change, and after notifications were lost because
// there were too many. It returns when the context is done, which is no error.
//
// Notifications wait while changed runs; several become one call.
func (c *Conn) Watch(ctx context.Context, table string, changed func()) error {
	c.mu.Lock()
	w, err := c.openWatcher(watchBuffer)
	c.mu.Unlock()
	if err != nil {
		return fmt.Errorf("watch table %s: %w", table, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = w.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = w.run(table, changed)
	if ctx.Err() != nil {
		err = nil
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("watch table %s: %w", table, err)
	}
	return nil
}

// watchBuffer is the receive buffer of a watcher: for a few thousand notifications.
const watchBuffer = 4 << 20

// watcher is a socket that receives notifications of what other sockets change.
type watcher struct{ *nlwire.Socket }

// nftablesGroup is the multicast group of nf_tables, as bind(2) takes it.
const nftablesGroup = 1 << (unix.NFNLGRP_NFTABLES - 1)

// openWatcher opens a watcher with a receive buffer of so many bytes.
func (c *Conn) openWatcher(buffer int) (*watcher, error) {
	cfg := nlwire.Config{Protocol: unix.NETLINK_NETFILTER, Groups: nftablesGroup, ReceiveBuffer: buffer}
	s, ok := c.socket.(*nlwire.Socket)
	if !ok {
		return nil, os.ErrClosed
	}
	if c.netNS {
		err := s.Control(func(fd int) (err error) {
			cfg.NetNS, err = unix.IoctlRetInt(fd, unix.SIOCGSKNS)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("open the socket's network namespace: %w", err)
		}
		defer func() { _ = unix.Close(cfg.NetNS) }() // nothing was written
	}
	opened, err := nlwire.Dial(cfg)
	if err != nil {
		return nil, err
	}
	w := &watcher{opened}
	if err := w.ignore(c.port); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// ignore keeps notifications of what one socket changes out of the receive buffer, where
// those of tens of thousands of elements would find no room. The messages of one
// datagram are of one transaction, and carry the address of the socket that made it
// (nf_tables_fill_setelem_info and nft_commit_notify in net/netfilter/nf_tables_api.c).
func (w *watcher) ignore(port uint32) error {
	const nlmsgPid = 12 // its offset in struct nlmsghdr, in host byte order; the filter loads in network order
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: nlmsgPid},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 1, K: binary.BigEndian.Uint32(host32(port))},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return w.Control(func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	})
}

// run calls changed until reading fails.
func (w *watcher) run(table string, changed func()) error {
	buf := make([]byte, nlwire.LargestDatagram)
	changed()
	for pending := false; ; {
		n, err := w.Receive(buf, !pending)
		switch {
		case errors.Is(err, unix.EAGAIN): // no more notifications wait
			pending = false
			changed()
			continue
		case errors.Is(err, unix.ENOBUFS), errors.Is(err, nlwire.ErrMalformed):
			pending = true
			continue
		case err != nil:
			return err
		}
		concerned, generation := concerns(buf[:n], table)
		pending = pending || concerned
		if pending && generation != 0 {
			pending = false
			changed()
		}
	}
}

// concerns reports whether one of the notifications is about the table, and the
// generation that they end with. That is zero, which no generation is, if more of the
// transaction follows. Notifications that cannot be read may be about anything.
func concerns(datagram []byte, table string) (concerned bool, generation uint32) {
	m := nlwire.Messages{Data: datagram}
	for m.Next() {
		attrs := m.Attrs(nlwire.NetfilterHeader)
		switch {
		case m.Type == nftType(unix.NFT_MSG_NEWGEN):
			for attrs.Next() {
				if attrs.Type == unix.NFTA_GEN_ID {
					generation = attrs.BE32()
				}
			}
		case len(m.Payload) >= nlwire.NetfilterHeader && m.Payload[0] == unix.NFPROTO_INET:
			// The name of the table is the attribute 1 of all objects.
			concerned = concerned || nlwire.FindString(attrs.Data, unix.NFTA_TABLE_NAME) == table
		}
	}
	return concerned || m.Err != nil, generation
}

// readFollowed is readOnce while others may change tables of their own. A commit to any table
// is a new generation and interrupts all dumps. If a program commits all the time, as
// kube-proxy may, no read fits between two commits. But a read is consistent if none of them
// was about its table, which notifications tell.
func (c *Conn) readFollowed(table string, read func() error) (after uint32, err error) {
	if _, ok := c.socket.(*nlwire.Socket); !ok {
		return c.readOnce(read) // without a kernel there are no notifications
	}
	w, err := c.openWatcher(watchBuffer)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	before, err := c.generation()
	if err != nil {
		return 0, err
	}
	f := w.follow(table)
	c.followed = true
	err = read()
	c.followed = false
	if err == nil {
		after, err = c.generation()
	}
	if err != nil || after == before {
		_ = f.end(0) // no notification matters
		return after, err
	}
	return after, f.end(after)
}

// notifyTimeout is how long the notification of a commit is waited for. The kernel sends it
// within the commit, moments after the generation can be read (nf_tables_commit in
// net/netfilter/nf_tables_api.c).
const notifyTimeout = time.Second

// follower reads notifications while something else runs, so that the buffer has room
// however long that takes.
type follower struct {
	w     *watcher
	table string
	// last is the generation of the last notification, and target that at which to end;
	// zero, which no generation is: none.
	last, target atomic.Uint32
	ended        chan error
}

// follow starts a follower. end has to be called.
func (w *watcher) follow(table string) *follower {
	f := &follower{w: w, table: table, ended: make(chan error, 1)}
	go func() { f.ended <- f.run() }()
	return f
}

// end ends the follower when it has seen all changes up to the generation, or at once if
// that is zero. The error is errChanged if one of them was, or may have been, about the
// table.
func (f *follower) end(generation uint32) error {
	f.target.Store(generation)
	deadline := time.Now().Add(notifyTimeout)
	if generation == 0 || f.reached() {
		deadline = time.Unix(1, 0) // it may wait for a notification that does not come
	}
	err := f.w.SetReadDeadline(deadline)
	if err != nil {
		_ = f.w.Close() // ends it in any case; the error says why
	}
	return errors.Join(err, <-f.ended)
}

// reached reports whether the target was seen. Generations wrap.
func (f *follower) reached() bool {
	last, target := f.last.Load(), f.target.Load()
	return last != 0 && target != 0 && int32(last-target) >= 0
}

func (f *follower) run() error {
	buf := make([]byte, nlwire.LargestDatagram)
	for !f.reached() {
		n, err := f.w.Receive(buf, true)
		switch {
		case f.reached() && errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case errors.Is(err, unix.ENOBUFS), errors.Is(err, nlwire.ErrMalformed), errors.Is(err, os.ErrDeadlineExceeded):
			return errChanged
		case err != nil:
			return err
		}
		concerned, generation := concerns(buf[:n], f.table)
		if concerned {
			return errChanged
		}
		if generation != 0 {
			f.last.Store(generation)
		}
	}
	return nil
}
