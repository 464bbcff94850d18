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
	"unsafe"

	"golang.org/x/sys/unix"
)

// listenBacklog is limited by net.core.somaxconn, 4096 since Linux 5.4
// (listen(2)).
const listenBacklog = 1 << 16

// Socket holds a frontend's port against all other processes and answers nothing:
// a classic BPF filter drops what arrives (socket(7), SO_ATTACH_FILTER), so that a
// client sends its SYN again and connects if the port is open by then. Refuse is for
// a port without a proxy.
//
// A TCP socket listens from the beginning. A bound one alone would not hold the port:
// Linux lets two sockets with SO_REUSEADDR bind the same address while neither listens
// (inet_csk_get_port in net/ipv4/inet_connection_sock.c). SO_REUSEADDR is needed to
// bind while connections of an earlier proxy are in TIME_WAIT. UDP sockets do not have
// it, for it would share the port, and no socket has SO_REUSEPORT.
type Socket struct {
	network string
	addr    netip.AddrPort

	mu       sync.Mutex
	fd       int  // guarded by mu; -1: closed, or of a proxy
	refusing bool // guarded by mu: bound, does not listen
	filtered bool // guarded by mu: receives nothing
}

// Bind returns a socket that holds the port of frontend, a *net.TCPAddr or
// *net.UDPAddr. Port 0 asks the kernel for a free one. An address without IP, or
// [::], is every local address of both families (one dual-stack socket), unless
// opts.V6Only is set; 0.0.0.0 is every IPv4 address. Without IPv6 on the host, no
// IP means 0.0.0.0. Of opts, which may be nil, only Group, V6Only, FreeBind and BeforeBind count.
//
// The error is unix.EADDRINUSE for a port in use, fs.ErrPermission for a missing
// privilege, unix.EADDRNOTAVAIL for an address that is not local, unless opts.FreeBind is
// set.
func Bind(frontend net.Addr, opts *Options) (*Socket, error) {
	network, ap, err := addrPort(frontend)
	if err != nil {
		return nil, fmt.Errorf("bind frontend: %w", err)
	}
	if opts == nil {
		opts = &Options{}
	}
	s := &Socket{network: network, fd: -1}
	if err := opts.inNetNS(func() error { return s.bind(ap, opts) }); err != nil {
		return nil, fmt.Errorf("bind %s %s: %w", network, frontend, err)
	}
	return s, nil
}

// inNetNS calls f in the namespace of the group.
func (o *Options) inNetNS(f func() error) (err error) {
	if o.Group == nil || o.Group.opts.NetNS == 0 {
		return f()
	}
	l, err := o.Group.home()
	if err != nil {
		return err
	}
	if !l.do(func() { err = f() }) {
		return ErrClosed
	}
	return err
}

// bind opens the socket, in the namespace of the calling thread.
func (s *Socket) bind(ap netip.AddrPort, opts *Options) error {
	if ap.Addr().IsValid() {
		return s.open(ap, opts)
	}
	err := s.open(netip.AddrPortFrom(netip.IPv6Unspecified(), ap.Port()), opts)
	if opts.V6Only || !noIPv6(err) {
		return err
	}
	return s.open(netip.AddrPortFrom(netip.IPv4Unspecified(), ap.Port()), opts)
}

// noIPv6 reports whether an error says that the host has no IPv6.
func noIPv6(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)
}

func (s *Socket) open(ap netip.AddrPort, opts *Options) error {
	sa, err := encode(ap)
	if err != nil {
		return err
	}
	return s.openAt(sa, opts)
}

func (s *Socket) openAt(sa *sockaddr, opts *Options) error {
	kind := unix.SOCK_STREAM
	if s.network == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := bindSocket(kind, sa, opts)
	if err != nil {
		return err
	}
	addr, err := localAddr(fd)
	if err == nil && kind == unix.SOCK_STREAM {
		if sa.port() == 0 {
			// Bound again by number, the socket keeps its port when it stops
			// listening (see refuse).
			chosen := fd
			sa.setPort(addr.Port())
			fd, err = bindSocket(kind, sa, opts)
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

// bindSocket opens a socket that receives nothing and binds it.
func bindSocket(kind int, sa *sockaddr, opts *Options) (int, error) {
	fd, e := socket(sa.family, kind)
	if e != noErrno {
		return -1, os.NewSyscallError("socket", e)
	}
	if err := prepare(fd, sa, kind, opts); err != nil {
		closeFD(fd)
		return -1, err
	}
	return fd, nil
}

// prepare sets the options of a new socket and binds it.
func prepare(fd int, sa *sockaddr, kind int, opts *Options) error {
	// Before bind: no packet may slip in between.
	if err := attachDropAll(fd); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if sa.family == unix.AF_INET6 {
		only := int32(0)
		if opts.V6Only {
			only = 1
		}
		if e := setInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); e != noErrno {
			return os.NewSyscallError("setsockopt", e)
		}
	}
	if kind == unix.SOCK_STREAM || opts.share {
		if e := setInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); e != noErrno {
			return os.NewSyscallError("setsockopt", e)
		}
	}
	if opts.FreeBind {
		if e := setFreeBind(fd, sa.family); e != noErrno {
			return os.NewSyscallError("setsockopt", e)
		}
	}
	if opts.BeforeBind != nil {
		if err := opts.BeforeBind(fd); err != nil {
			return err
		}
	}
	if e := bindTo(fd, sa); e != noErrno {
		return os.NewSyscallError("bind", e)
	}
	return nil
}

// setFreeBind lets a socket bind, and send from, an address that no interface has.
func setFreeBind(fd, family int) unix.Errno {
	if family == unix.AF_INET6 {
		return setInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
	}
	return setInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
}

// Addr is the address held, with the port that the kernel chose if 0 was asked for.
func (s *Socket) Addr() net.Addr { return netAddr(s.network, s.addr) }

// Close gives the port back. It does nothing if a proxy has the socket, or the second
// time.
func (s *Socket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd >= 0 {
		closeFD(s.fd)
		s.fd = -1
	}
	return nil
}

// attachDropAll makes the socket receive nothing.
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

// peerAddr is what a socket is connected to.
func peerAddr(fd int) (netip.AddrPort, error) {
	var raw rawName
	size := uint32(len(raw))
	if _, _, e := unix.RawSyscall(unix.SYS_GETPEERNAME, uintptr(fd), uintptr(unsafe.Pointer(&raw)), uintptr(unsafe.Pointer(&size))); e != noErrno {
		return netip.AddrPort{}, os.NewSyscallError("getpeername", e)
	}
	return raw.decode(), nil
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
// opened. A listener of MPTCP, which those of package net are by default, can be served,
// and not silenced (Refuse). ErrAddr: a frontend cannot have such a socket.
func NewSocket(fd int) (*Socket, error) {
	s := &Socket{fd: fd}
	if err := s.inspect(); err != nil {
		return nil, fmt.Errorf("take socket: %w", err)
	}
	return s, nil
}

// inspect reads what the kernel knows of the socket.
func (s *Socket) inspect() (err error) {
	if s.network, err = networkOf(s.fd); err != nil {
		return err
	}
	if s.addr, err = localAddr(s.fd); err != nil {
		return err
	}
	if s.addr.Port() == 0 {
		return fmt.Errorf("%w: it is not bound", ErrAddr)
	}
	if s.network == "tcp" {
		listens, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		if err != nil {
			return os.NewSyscallError("getsockopt", err)
		}
		s.refusing = listens == 0
	}
	s.filtered, err = hasFilter(s.fd)
	return err
}

// networkOf returns "tcp" or "udp".
func networkOf(fd int) (string, error) {
	var values [3]int
	for i, option := range []int{unix.SO_DOMAIN, unix.SO_TYPE, unix.SO_PROTOCOL} {
		var err error
		if values[i], err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, option); err != nil {
			return "", os.NewSyscallError("getsockopt", err)
		}
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return "", os.NewSyscallError("fcntl", err)
	}
	domain, kind, protocol := values[0], values[1], values[2]
	switch {
	case domain != unix.AF_INET && domain != unix.AF_INET6, flags&unix.O_NONBLOCK == 0:
	case (protocol == unix.IPPROTO_TCP || protocol == unix.IPPROTO_MPTCP) && kind == unix.SOCK_STREAM:
		return "tcp", nil
	case protocol == unix.IPPROTO_UDP && kind == unix.SOCK_DGRAM:
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

// Refuse makes the socket refuse clients, while it holds the port as before: a TCP
// client gets a reset, as from a free port, until Proxy is called. A UDP socket stays
// silent: while it is bound the kernel sends no ICMP error. ErrClosed: it is closed or
// belongs to a proxy. A second Refuse does nothing.
func (s *Socket) Refuse() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.fd < 0:
		return fmt.Errorf("refuse at %s: %w", s.Addr(), ErrClosed)
	case s.network != "tcp":
		return s.filter()
	case s.refusing:
		return nil
	}
	if err := refuse(s.fd); err != nil {
		return fmt.Errorf("refuse at %s: %w", s.Addr(), err)
	}
	s.refusing = true
	return nil
}

// filter makes a socket receive nothing that a proxy of another process has served.
func (s *Socket) filter() error {
	if s.filtered {
		return nil
	}
	if err := attachDropAll(s.fd); err != nil {
		return fmt.Errorf("silence %s: %w", s.Addr(), os.NewSyscallError("setsockopt", err))
	}
	s.filtered = true
	return nil
}

// refuse turns a listening socket into one that is only bound, so that the kernel
// answers a SYN with a reset, and still nobody can share the port. Two things see to
// that (inet_csk_get_port and inet_csk_bind_conflict in
// net/ipv4/inet_connection_sock.c): the socket has no SO_REUSEADDR any more; and the
// port is not marked as shared by all its sockets (tb->fastreuse), because listening
// removed the mark for as long as the port is in use. A socket that never listened
// would leave the mark, and let others with SO_REUSEADDR bind the port.
func refuse(fd int) error {
	// For a listener this is disconnect: it stays bound, for its port was
	// asked for (tcp_disconnect in net/ipv4/tcp.c, SOCK_BINDPORT_LOCK).
	if err := unix.Shutdown(fd, unix.SHUT_RD); err != nil {
		return os.NewSyscallError("shutdown", err)
	}
	if e := setInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0); e != noErrno {
		return os.NewSyscallError("setsockopt", e)
	}
	return nil
}

// listenAgain undoes refuse.
func listenAgain(fd int) error {
	// Connections of earlier proxies may be in TIME_WAIT, and live ones on the port.
	if e := setInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); e != noErrno {
		return os.NewSyscallError("setsockopt", e)
	}
	return listen(fd)
}

// listen makes a socket listen that is bound with SO_REUSEADDR. Of two on the same
// port the second gets EADDRINUSE.
func listen(fd int) error {
	return os.NewSyscallError("listen", unix.Listen(fd, listenBacklog))
}
