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

// Two processes can have a frontend's socket open at once, so that one replaces the
// other without a moment in which the port is free (unix(7), SCM_RIGHTS). They share
// its queue, its filter, its options and whether it listens. So the one that gives it
// up only closes it, and neither shuts it down nor filters it.

// lastAnswers bounds how long the flows of a UDP proxy go on after Group.Leave.
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

// Descriptor returns the descriptor of the socket, to pass to another process; it
// still belongs to the Socket. -1: it is closed, or belongs to a proxy.
func (s *Socket) Descriptor() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fd
}

// NewSocket makes a Socket of a descriptor that is bound already, perhaps passed by
// another process, and owns it from then on unless it returns an error. Whether the
// socket listens and receives stays as it is until Refuse, or until its proxy is
// opened. ErrAddr: a frontend cannot have such a socket, for instance one of MPTCP, as
// listeners of package net are by default.
func NewSocket(fd int) (*Socket, error) {
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

// networkOf returns "tcp" or "udp".
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

// hasFilter reports whether a socket has the filter of attachDropAll, the only one
// that is used here.
func hasFilter(fd int) (bool, error) {
	var size uint32 // of the memory for the filter; the kernel makes it the filter's
	if _, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_GET_FILTER, 0, uintptr(unsafe.Pointer(&size)), 0); e != noErrno {
		return false, os.NewSyscallError("getsockopt", e)
	}
	return size != 0, nil
}

// Leave begins a Shutdown while another process has the frontends too. When it
// returns, the group takes nothing new from them and has closed its listeners.
// Datagrams in their queues are left to the other process, and so are connections,
// except those of which perhaps only this process was notified. Connections go on;
// answers to UDP flows leave by the frontends until there was none for a second,
// for 10 s at most. Shutdown or Close must follow.
func (g *Group) Leave() {
	for _, m := range g.closeToNew() {
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
