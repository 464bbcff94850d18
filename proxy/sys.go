// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Everything in this file is called only on non-blocking descriptors, from an
// event loop. RawSyscall spares the hand-shake with the Go scheduler which a
// call that may block needs; none of these can block.

// noErrno is the Errno of a call that succeeded.
const noErrno = unix.Errno(0)

// recv reads from a stream socket; 0 bytes without an error is its end.
func recv(fd int, b []byte) (int, unix.Errno) {
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0)
		if e != unix.EINTR {
			return int(n), e
		}
	}
}

// send writes to a connected socket. MSG_NOSIGNAL: a write to a dead peer
// must be an error here and not a SIGPIPE in the embedding program.
func send(fd int, b []byte) (int, unix.Errno) {
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0)
		if e != unix.EINTR {
			return int(n), e
		}
	}
}

// splice moves up to n bytes between a socket and a pipe inside the kernel.
func splice(from, to, n int) (int, unix.Errno) {
	for {
		r, _, e := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if e != unix.EINTR {
			return int(r), e
		}
	}
}

// accept4 takes the next connection of a listener. The peer's address is not
// asked for: nothing here needs it.
func accept4(fd int) (int, unix.Errno) {
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		if e != unix.EINTR {
			return int(n), e
		}
	}
}

// socket opens a non-blocking socket.
func socket(family, kind int) (int, unix.Errno) {
	n, _, e := unix.RawSyscall(unix.SYS_SOCKET, uintptr(family), uintptr(kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC), 0)
	return int(n), e
}

// connect begins (TCP) or makes (UDP) an association with to.
func connect(fd int, to *sockaddr) unix.Errno {
	_, _, e := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&to.raw)), uintptr(to.size))
	if e == unix.EINTR {
		// connect(2): an interrupted connect goes on by itself.
		return unix.EINPROGRESS
	}
	return e
}

// bindTo gives a socket an address.
func bindTo(fd int, to *sockaddr) unix.Errno {
	_, _, e := unix.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&to.raw)), uintptr(to.size))
	return e
}

// setInt sets an integer socket option.
func setInt(fd, level, option int, value int32) unix.Errno {
	_, _, e := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&value)), unsafe.Sizeof(value), 0)
	return e
}

// reset closes a TCP socket so that its peer sees RST: with a zero linger
// close(2) aborts the connection (tcp(7), RFC 9293 section 3.10.5).
func reset(fd int) {
	l := unix.Linger{Onoff: 1}
	_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER, uintptr(unsafe.Pointer(&l)), unsafe.Sizeof(l), 0)
	closeFD(fd)
}

// closeFD closes a descriptor. close(2) on Linux frees it whatever it returns.
func closeFD(fd int) {
	_, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
}

// shutdownWrite sends FIN.
func shutdownWrite(fd int) unix.Errno {
	_, _, e := unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0)
	return e
}

// sendmsg sends one message.
func sendmsg(fd int, m *unix.Msghdr) unix.Errno {
	for {
		_, _, e := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(m)), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		if e != unix.EINTR {
			return e
		}
	}
}

// mmsghdr is struct mmsghdr of sendmmsg(2): the compiler pads it as C does.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// sendmmsg sends messages and returns how many the kernel took.
func sendmmsg(fd int, m []mmsghdr) (int, unix.Errno) {
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(m))), uintptr(len(m)), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
		if e != unix.EINTR {
			return int(n), e
		}
	}
}

// recvmmsg receives what is there, at most len(m) messages.
func recvmmsg(fd int, m []mmsghdr) (int, unix.Errno) {
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(m))), uintptr(len(m)), unix.MSG_DONTWAIT, 0, 0)
		if e != unix.EINTR {
			return int(n), e
		}
	}
}

// iovecs are the parts of a message.
func iovecs(m *unix.Msghdr) []unix.Iovec { return unsafe.Slice(m.Iov, m.Iovlen) }

// part is the memory that an iovec stands for.
func part(v *unix.Iovec) []byte { return unsafe.Slice(v.Base, v.Len) }
