// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// socket is a netlink socket as the transactions use it: the seam at which tests
// inject the kernel's faults.
type socket interface {
	// send gives the kernel a datagram. nfnetlink has done all that it asks, and
	// queued the answers, when send returns (netlink_unicast_kernel).
	send(b []byte) error
	// receive reads one datagram of the kernel's into b and never waits: EAGAIN
	// where there is none.
	receive(b []byte) (int, error)
	Close() error
}

// kernelSocket is the real one.
type kernelSocket struct {
	*netlink.Conn
	raw syscall.RawConn
	// sendBuffer is the size that the send buffer has been set to.
	sendBuffer int
}

// receiveBuffer is asked for the answers to a batch of which every message fails.
const receiveBuffer = 1 << 20

func dial(netNS int) (*kernelSocket, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: netNS})
	if err != nil {
		return nil, err
	}
	s := &kernelSocket{Conn: c}
	if s.raw, err = c.SyscallConn(); err == nil {
		// CapAcknowledge keeps an error answer from quoting the whole request.
		err = errors.Join(c.SetOption(netlink.ExtendedAcknowledge, true), c.SetOption(netlink.CapAcknowledge, true))
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	// Best effort: without it a failed batch of many messages may lose answers,
	// which is noticed and seen to.
	_ = c.SetReadBuffer(receiveBuffer)
	return s, nil
}

func (s *kernelSocket) send(b []byte) error {
	// netlink_sendmsg wants the whole datagram to fit in the send buffer, with 32
	// bytes to spare; more than net.core.wmem_max takes CAP_NET_ADMIN.
	if need := len(b) + 4096; need > s.sendBuffer {
		if err := s.SetWriteBuffer(need); err != nil {
			return fmt.Errorf("set send buffer to %d bytes: %w", need, err)
		}
		s.sendBuffer = need
	}
	var err error
	control := s.raw.Write(func(fd uintptr) bool {
		err = ignoringEINTR(func() error {
			return unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		})
		return true
	})
	return errors.Join(control, err)
}

func (s *kernelSocket) receive(b []byte) (n int, err error) {
	var from unix.Sockaddr
	control := s.raw.Read(func(fd uintptr) bool {
		err = ignoringEINTR(func() (err error) {
			n, from, err = unix.Recvfrom(int(fd), b, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
			return err
		})
		return true
	})
	if err := errors.Join(control, err); err != nil {
		return 0, err
	}
	if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
		// Another process can send to this socket's port; it is not heard.
		return 0, nil
	}
	if n > len(b) {
		return 0, fmt.Errorf("netlink datagram of %d bytes is longer than the %d of the buffer", n, len(b))
	}
	return n, nil
}

// maxInterrupts bounds how often one system call is tried again after a signal.
const maxInterrupts = 100

func ignoringEINTR(call func() error) error {
	var err error
	for range maxInterrupts {
		if err = call(); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return err
}
