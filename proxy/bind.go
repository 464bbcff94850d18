// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// listenBacklog is cut by the kernel to net.core.somaxconn, 4096 since
// Linux 5.4 (listen(2)).
const listenBacklog = 1 << 16

// Socket holds a frontend's port against every other process and answers
// nothing: a classic BPF filter drops what arrives (socket(7),
// SO_ATTACH_FILTER), so a client's SYN is not refused but sent again, and
// connects if the port was opened meanwhile. A port that is to be held without
// a proxy can be told to Refuse.
//
// A TCP socket listens already. One that was only ever bound would not hold
// the port: Linux lets two sockets with SO_REUSEADDR bind the same address as
// long as neither listens (net/ipv4/inet_connection_sock.c,
// inet_csk_get_port). SO_REUSEADDR itself is needed for binding while
// connections of an earlier proxy are in TIME_WAIT. SO_REUSEPORT is never
// set, and UDP sockets, where SO_REUSEADDR would share the port, have neither.
type Socket struct {
	network string
	addr    netip.AddrPort

	mu       sync.Mutex
	fd       int  // guarded by mu; -1: closed, or taken by a proxy
	refusing bool // guarded by mu: bound only, no listener
	filtered bool // guarded by mu: takes no packet
}

// Bind returns a socket that holds the port of frontend, a *net.TCPAddr or
// *net.UDPAddr. Port 0 asks the kernel for a free one. An address without IP,
// or [::], is every local address of both families (one dual-stack socket),
// unless opts.V6Only is set; 0.0.0.0 is every IPv4 address. A host without
// IPv6 gets 0.0.0.0 where no IP was given. Of opts only Group and V6Only
// count; nil will do.
//
// A taken port gives unix.EADDRINUSE, a missing privilege fs.ErrPermission,
// an address that is not local unix.EADDRNOTAVAIL, all by errors.Is.
func Bind(frontend net.Addr, opts *Options) (*Socket, error) {
	network, ap, err := addrPort(frontend)
	if err != nil {
		return nil, fmt.Errorf("bind frontend: %w", err)
	}
	if opts == nil {
		opts = &Options{}
	}
	s := &Socket{network: network, fd: -1}
	bind := func() { err = s.bind(ap, opts.V6Only) }
	if g := opts.Group; g != nil && g.opts.NetNS != 0 {
		l, lerr := g.home()
		if lerr != nil {
			return nil, fmt.Errorf("bind %s %s: %w", network, frontend, lerr)
		}
		if !l.do(bind) {
			err = ErrClosed
		}
	} else {
		bind()
	}
	if err != nil {
		return nil, fmt.Errorf("bind %s %s: %w", network, frontend, err)
	}
	return s, nil
}

// bind opens the socket, in the namespace of the calling thread.
func (s *Socket) bind(ap netip.AddrPort, v6only bool) error {
	if ap.Addr().IsValid() {
		return s.open(ap, v6only)
	}
	err := s.open(netip.AddrPortFrom(netip.IPv6Unspecified(), ap.Port()), v6only)
	if v6only || !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return err
	}
	return s.open(netip.AddrPortFrom(netip.IPv4Unspecified(), ap.Port()), false)
}

func (s *Socket) open(ap netip.AddrPort, v6only bool) error {
	kind := unix.SOCK_STREAM
	if s.network == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := bindSocket(kind, ap, v6only)
	if err != nil {
		return err
	}
	addr, err := localAddr(fd)
	if err == nil && kind == unix.SOCK_STREAM {
		if ap.Port() == 0 {
			// A port that the kernel chose is lost when the socket stops
			// listening (see refuse); one that was asked for is not.
			chosen := fd
			fd, err = bindSocket(kind, addr, v6only)
			closeFD(chosen)
			if err != nil {
				return err
			}
		}
		err = listen(fd)
	}
	if err != nil {
		closeFD(fd)
		return err
	}
	s.fd, s.addr, s.filtered = fd, addr, true
	return nil
}

// bindSocket opens a socket that takes no packet and binds it.
func bindSocket(kind int, ap netip.AddrPort, v6only bool) (int, error) {
	sa, err := encode(ap)
	if err != nil {
		return -1, err
	}
	fd, e := socket(sa.family, kind)
	if e != noErrno {
		return -1, os.NewSyscallError("socket", e)
	}
	if err := prepare(fd, sa, kind, v6only); err != nil {
		closeFD(fd)
		return -1, err
	}
	return fd, nil
}

// prepare is bindSocket with the socket there.
func prepare(fd int, sa *sockaddr, kind int, v6only bool) error {
	// Before bind: no packet may slip in between.
	if err := attachDropAll(fd); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if sa.family == unix.AF_INET6 {
		only := int32(0)
		if v6only {
			only = 1
		}
		if e := setInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); e != noErrno {
			return os.NewSyscallError("setsockopt", e)
		}
	}
	if kind == unix.SOCK_STREAM {
		if e := setInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); e != noErrno {
			return os.NewSyscallError("setsockopt", e)
		}
	}
	if _, _, e := unix.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&sa.raw)), uintptr(sa.size)); e != noErrno {
		return os.NewSyscallError("bind", e)
	}
	return nil
}

// Addr is the address that is held, with the port that the kernel chose if 0
// was asked for.
func (s *Socket) Addr() net.Addr { return netAddr(s.network, s.addr) }

// Close gives the port back. It does nothing to a socket that a proxy took,
// nor the second time.
func (s *Socket) Close() error {
	if fd := s.take(); fd >= 0 {
		closeFD(fd)
	}
	return nil
}

// take moves the descriptor out; -1: there is none any more.
func (s *Socket) take() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	fd := s.fd
	s.fd = -1
	return fd
}

// attachDropAll makes the socket take no packet.
func attachDropAll(fd int) error {
	program := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &program[0]})
}

// detachFilter lets packets in.
func detachFilter(fd int) error {
	if e := setInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0); e != noErrno {
		return os.NewSyscallError("setsockopt", e)
	}
	return nil
}

// localAddr is getsockname(2).
func localAddr(fd int) (netip.AddrPort, error) {
	var raw rawName
	size := uint32(len(raw))
	if _, _, e := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&raw)), uintptr(unsafe.Pointer(&size))); e != noErrno {
		return netip.AddrPort{}, os.NewSyscallError("getsockname", e)
	}
	return raw.decode(), nil
}

// netSocket is what a *net.TCPListener and a *net.UDPConn have in common.
type netSocket interface {
	SyscallConn() (syscall.RawConn, error)
	Close() error
}

// adopt takes over a socket of package net: a descriptor of our own for it,
// after which theirs is closed.
func adopt(c netSocket) (int, error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var derr error
	if err := rc.Control(func(theirs uintptr) {
		fd, derr = unix.FcntlInt(theirs, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return -1, err
	}
	if derr != nil {
		return -1, os.NewSyscallError("fcntl", derr)
	}
	_ = c.Close() // the socket lives on in fd
	return fd, nil
}
