// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"errors"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// readSize is the size of a receive buffer. The kernel builds dumps in
	// pieces as large as the reader's buffer, but never above 32 KiB
	// (netlink_recvmsg and netlink_dump in net/netlink/af_netlink.c).
	readSize = 64 << 10

	// socketBuffer is what is asked of the kernel as socket receive buffer:
	// many times what a dump's pieces or a chunk of deletions can fill.
	socketBuffer = 1 << 20

	// answerTime is how long a missing answer is waited for. The kernel
	// answers within the system call that asks, so whoever has to wait at
	// all has lost the answer; the rest is for machines under great load.
	answerTime = 10 * time.Second

	// interrupts bounds the immediate repetitions of a system call that a
	// signal interrupted.
	interrupts = 16

	// overruns bounds how often draining the socket goes on after the kernel
	// said that it had to drop something.
	overruns = 16
)

// transport carries datagrams to and from the kernel.
type transport interface {
	// send sends one datagram.
	send(b []byte) error
	// recv waits for one datagram from the kernel and puts it into b.
	recv(b []byte) (int, error)
	// drain reads and drops what there is, the rest of a running dump
	// included, without waiting for more. b is room to read into.
	drain(b []byte) error
	// close interrupts send and recv.
	close() error
}

// socket is a netlink socket. It is read and written by way of its file
// descriptor: netlink.Conn would make a copy of each message received.
type socket struct {
	conn   *netlink.Conn
	raw    syscall.RawConn
	kernel unix.SockaddrNetlink // the zero address is the kernel's
}

func newSocket(netns int) (*socket, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{
		NetNS: netns,
		// Extended acknowledgements, and strict checking of dump requests
		// where the kernel has that (ctnetlink does not, so far).
		Strict: true,
	})
	if err != nil {
		return nil, err
	}
	s := &socket{conn: conn}
	if s.raw, err = conn.SyscallConn(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	// Acknowledgements without the request they answer: they take less of
	// the receive buffer.
	if err = conn.SetOption(netlink.CapAcknowledge, true); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	// Best effort: a small buffer costs retries, nothing else.
	_ = conn.SetReadBuffer(socketBuffer)
	return s, nil
}

func (s *socket) send(b []byte) error {
	var opErr error
	err := s.raw.Write(func(fd uintptr) bool {
		for range interrupts {
			if opErr = unix.Sendto(int(fd), b, 0, &s.kernel); !errors.Is(opErr, unix.EINTR) {
				break
			}
		}
		return !errors.Is(opErr, unix.EAGAIN)
	})
	return errors.Join(err, opErr)
}

func (s *socket) recv(b []byte) (int, error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
		return 0, err
	}
	for {
		n, from, err := s.recvfrom(b)
		if err != nil {
			return 0, err
		}
		// Any process of enough privilege can send to this socket, and pose
		// as the kernel in all but the sender's port.
		if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
			continue
		}
		if n > len(b) {
			return 0, errMalformed // cut short: larger than the kernel makes them
		}
		return n, nil
	}
}

func (s *socket) recvfrom(b []byte) (n int, from unix.Sockaddr, err error) {
	var opErr error
	err = s.raw.Read(func(fd uintptr) bool {
		for range interrupts {
			// MSG_TRUNC: the true length of a datagram that does not fit.
			if n, from, opErr = unix.Recvfrom(int(fd), b, unix.MSG_TRUNC); !errors.Is(opErr, unix.EINTR) {
				break
			}
		}
		return !errors.Is(opErr, unix.EAGAIN)
	})
	if err == nil {
		err = opErr
	}
	return n, from, err
}

// drain stops when there is nothing to read: for as long as a dump runs there
// is, as the kernel makes the next piece of it while one is read
// (netlink_recvmsg).
func (s *socket) drain(b []byte) error {
	var opErr error
	err := s.raw.Control(func(fd uintptr) {
		for faults := 0; faults < interrupts+overruns; {
			_, _, opErr = unix.Recvfrom(int(fd), b, unix.MSG_DONTWAIT)
			switch {
			case opErr == nil:
			case errors.Is(opErr, unix.EINTR), errors.Is(opErr, unix.ENOBUFS):
				faults++
			default:
				return
			}
		}
	})
	if errors.Is(opErr, unix.EAGAIN) {
		opErr = nil
	}
	return errors.Join(err, opErr)
}

func (s *socket) close() error { return s.conn.Close() }
