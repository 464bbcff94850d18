// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Watch calls changed at once, and again whenever somebody else may have changed the
// table: when another socket than this Conn's has committed a change of it, and when
// word of changes was lost because there were too many. It goes on until the context
// is done, which is no error.
//
// What changed does takes its time from the hearing of further changes; a few dozen
// are kept meanwhile, and are told of as one.
func (c *Conn) Watch(ctx context.Context, table string, changed func()) error {
	w, err := c.listen(watchBuffer)
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

// watchBuffer is the receive buffer of a watcher, for a few thousand notifications.
// More than net.core.rmem_max takes CAP_NET_ADMIN.
const watchBuffer = 4 << 20

// watcher is a socket that hears of the changes that other sockets make.
type watcher struct {
	*netlink.Conn
	raw syscall.RawConn
}

// nftablesGroup is the multicast group of nf_tables, as bind(2) takes it.
const nftablesGroup = 1 << (unix.NFNLGRP_NFTABLES - 1)

// listen opens a watcher with a receive buffer of so many bytes.
func (c *Conn) listen(buffer int) (*watcher, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.openWatcher(buffer)
}

func (c *Conn) openWatcher(buffer int) (*watcher, error) {
	cfg := netlink.Config{Groups: nftablesGroup}
	s, ok := c.socket.(*kernelSocket)
	if !ok {
		return nil, os.ErrClosed
	}
	if c.netNS {
		fd, err := s.namespace()
		if err != nil {
			return nil, err
		}
		defer func() { _ = unix.Close(fd) }() // nothing was written
		cfg.NetNS = fd
	}
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &cfg)
	if err != nil {
		return nil, err
	}
	w := &watcher{Conn: conn}
	if w.raw, err = conn.SyscallConn(); err == nil {
		err = w.deafen(c.port)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	// Best effort: what is lost for it is noticed.
	_ = conn.SetReadBuffer(buffer)
	return w, nil
}

// namespace opens the network namespace of the socket.
func (s *kernelSocket) namespace() (ns int, err error) {
	control := s.raw.Control(func(fd uintptr) { ns, err = unix.IoctlRetInt(int(fd), unix.SIOCGSKNS) })
	if err := errors.Join(control, err); err != nil {
		return 0, fmt.Errorf("open the socket's network namespace: %w", err)
	}
	return ns, nil
}

// deafen keeps what the changes of one socket cause out of the receive buffer, where
// those of tens of thousands of elements would find no room. The messages of one
// datagram are of one transaction, and carry the address of who made it
// (nf_tables_fill_setelem_info and nft_commit_notify in net/netfilter/nf_tables_api.c).
func (w *watcher) deafen(port uint32) error {
	const nlmsgPid = 12 // its offset in struct nlmsghdr, in host byte order; the filter loads in network order
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: nlmsgPid},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 1, K: binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, port))},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	var err error
	control := w.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	})
	return errors.Join(control, err)
}

// run calls changed until reading fails.
func (w *watcher) run(table string, changed func()) error {
	buf := make([]byte, readBuffer)
	changed()
	for pending := false; ; {
		n, err := w.read(buf, pending)
		switch {
		case errors.Is(err, unix.EAGAIN): // that was all there is
			pending = false
			changed()
			continue
		case errors.Is(err, unix.ENOBUFS):
			pending = true
			continue
		case err != nil:
			return err
		}
		about, generation := concerns(buf[:n], table)
		pending = pending || about
		if pending && generation != 0 {
			pending = false
			changed()
		}
	}
}

// read reads a datagram of the kernel's. It waits for one, unless the caller has
// something to do.
func (w *watcher) read(buf []byte, busy bool) (n int, err error) {
	var from unix.Sockaddr
	control := w.raw.Read(func(fd uintptr) bool {
		err = ignoringEINTR(func() (err error) {
			n, from, err = unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
			return err
		})
		return busy || !errors.Is(err, unix.EAGAIN)
	})
	if err := errors.Join(control, err); err != nil {
		return 0, err
	}
	if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
		return 0, nil // another process's
	}
	return n, nil
}

// concerns reports whether one of the notifications is about the table, and the
// generation that they end with; zero, which none is: what is said of a transaction goes
// on. What cannot be read may be about anything.
func concerns(datagram []byte, table string) (about bool, generation uint32) {
	m := messages{rest: datagram}
	for m.next() {
		if m.typ == nftType(unix.NFT_MSG_NEWGEN) {
			for a := m.attributes(); a.next(); {
				if a.typ == unix.NFTA_GEN_ID {
					generation = a.be32()
				}
			}
			continue
		}
		if len(m.payload) < 4 || m.payload[0] != unix.NFPROTO_INET {
			continue
		}
		// The name of the table is the attribute 1 of all objects.
		about = about || cString(find(m.payload[4:], unix.NFTA_TABLE_NAME)) == table
	}
	return about || m.err != nil, generation
}
