// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A frontend's socket can be open in two processes at once, so that one succeeds the
// other without a moment in which nobody has the port (unix(7), SCM_RIGHTS). All of it
// is one then: its queue, and also its filter, its options and whether it listens. So
// whoever gives it up only closes it, and never shuts it down or filters it before.

// lastAnswers bounds how long a UDP proxy that has left passes on what backends send
// to its flows.
const lastAnswers = 10 * time.Second

// Descriptor implements Proxy.
func (b *base) Descriptor() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == bound || b.state == open {
		return b.fd
	}
	return -1
}

// Descriptor is the socket's, for another process to have it too; it stays the
// socket's. -1: it is closed, or a proxy's.
func (s *Socket) Descriptor() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fd
}

// Take makes a Socket of one that is bound already and that another process may have
// as well, and owns the descriptor from then on, unless it returns an error. Whether
// it listens, and whether it takes packets, is as it was, until it is told to Refuse or
// made a proxy and opened. ErrAddr: it is no socket that a frontend could have.
func Take(fd int) (*Socket, error) {
	s := &Socket{fd: fd}
	var err error
	if s.network, err = networkOf(fd); err != nil {
		return nil, fmt.Errorf("take socket: %w", err)
	}
	if s.addr, err = localAddr(fd); err != nil {
		return nil, fmt.Errorf("take socket: %w", err)
	}
	if s.addr.Port() == 0 {
		return nil, fmt.Errorf("take socket: %w: it is not bound", ErrAddr)
	}
	if s.network == "tcp" {
		listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		if err != nil {
			return nil, fmt.Errorf("take socket: %w", os.NewSyscallError("getsockopt", err))
		}
		s.refusing = listens == 0
	}
	if s.filtered, err = hasFilter(fd); err != nil {
		return nil, fmt.Errorf("take socket: %w", err)
	}
	return s, nil
}

// networkOf tells which protocol a socket is of.
func networkOf(fd int) (string, error) {
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return "", os.NewSyscallError("getsockopt", err)
	}
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return "", os.NewSyscallError("getsockopt", err)
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return "", os.NewSyscallError("getsockopt", err)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return "", os.NewSyscallError("fcntl", err)
	}
	internet := (domain == unix.AF_INET || domain == unix.AF_INET6) && flags&unix.O_NONBLOCK != 0
	switch {
	case internet && protocol == unix.IPPROTO_TCP && kind == unix.SOCK_STREAM:
		return "tcp", nil
	case internet && protocol == unix.IPPROTO_UDP && kind == unix.SOCK_DGRAM:
		return "udp", nil
	}
	return "", fmt.Errorf("%w: family %d, type %d, protocol %d, flags %#x", ErrAddr, domain, kind, protocol, flags)
}

// hasFilter reports whether a socket has the filter of attachDropAll: no other is ever
// given to one.
func hasFilter(fd int) (bool, error) {
	var size uint32 // of the memory for the filter; the kernel makes it the filter's
	if _, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_GET_FILTER, 0, uintptr(unsafe.Pointer(&size)), 0); e != noErrno {
		return false, os.NewSyscallError("getsockopt", e)
	}
	return size != 0, nil
}

// Leave is the beginning of a Shutdown for when another process has the frontends too:
// the group takes nothing new from them, and gives its listeners up as they are when it
// returns. Datagrams in their queues are the other process's, and so are connections,
// but for those whose coming this process alone may have been told.
// What the group carries goes on; answers to its UDP flows leave by the frontends for
// another second after the last one, and 10 s at most. Shutdown or Close must follow.
func (g *Group) Leave() {
	for _, m := range g.bar() {
		m.leave()
	}
}

// leave implements member.
func (b *base) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch b.state {
	case bound:
		_ = b.closeLocked() // closing a descriptor, which has no error
	case open:
		b.shared = true
		b.drainLocked()
	case drains, closed:
	}
}
