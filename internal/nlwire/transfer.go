// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nlwire

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// transfer is a datagram that is sent or received. It is used again, for a request and its answer
// would take a dozen allocations otherwise: package unix makes a value of each address, and package net
// wants a function.
type transfer struct {
	b    []byte
	wait bool
	n    int
	err  error
	peer unix.RawSockaddrNetlink
	size uint32 // of peer
	// send and receive are the methods, as functions of a descriptor.
	send, receive func(fd uintptr) bool
}

func newTransfer() any {
	t := &transfer{}
	t.send, t.receive = t.sendTo, t.receiveFrom
	return t
}

// sendTo sends the datagram to the kernel.
func (t *transfer) sendTo(fd uintptr) bool {
	t.peer = unix.RawSockaddrNetlink{Family: unix.AF_NETLINK}
	t.err = ignoringEINTR(func() error {
		_, _, e := unix.Syscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(t.b))), uintptr(len(t.b)), 0,
			uintptr(unsafe.Pointer(&t.peer)), unix.SizeofSockaddrNetlink)
		return errorOf(e)
	})
	return true
}

// receiveFrom receives a datagram, and reports whether that is done: else one is waited for.
func (t *transfer) receiveFrom(fd uintptr) bool {
	t.err = ignoringEINTR(func() error {
		t.size = unix.SizeofSockaddrNetlink
		n, _, e := unix.Syscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(t.b))), uintptr(len(t.b)),
			unix.MSG_DONTWAIT|unix.MSG_TRUNC, uintptr(unsafe.Pointer(&t.peer)), uintptr(unsafe.Pointer(&t.size)))
		t.n = int(n)
		return errorOf(e)
	})
	return !t.wait || !errors.Is(t.err, unix.EAGAIN)
}

func errorOf(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// fromKernel reports whether the kernel has sent what was received.
func (t *transfer) fromKernel() bool {
	return t.size == unix.SizeofSockaddrNetlink && t.peer.Family == unix.AF_NETLINK && t.peer.Pid == 0
}
