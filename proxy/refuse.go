// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Refuse makes the socket refuse instead of keeping silent, while it holds the
// port as before: a TCP client gets a reset, as from a port that nobody has.
// Proxy can still be called; from then on nothing is refused any more.
// A UDP socket stays silent: as long as it holds its port the kernel finds it
// for every datagram and so sends no ICMP error. ErrClosed: it is closed or a
// proxy's. Refusing again does nothing.
func (s *Socket) Refuse() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.fd < 0:
		return fmt.Errorf("refuse at %s: %w", s.Addr(), ErrClosed)
	case s.network != "tcp":
		return s.silence()
	case s.refusing:
		return nil
	}
	if err := refuse(s.fd); err != nil {
		return fmt.Errorf("refuse at %s: %w", s.Addr(), err)
	}
	s.refusing = true
	return nil
}

// silence makes a socket that was taken, and that a proxy has served, take no packet.
func (s *Socket) silence() error {
	if s.filtered {
		return nil
	}
	if err := attachDropAll(s.fd); err != nil {
		return fmt.Errorf("silence %s: %w", s.Addr(), os.NewSyscallError("setsockopt", err))
	}
	s.filtered = true
	return nil
}

// refuse turns a listening socket into one that is only bound, so that the
// kernel answers a SYN as if there were none, and that nobody can share the
// port with all the same. Two things keep others out (inet_csk_get_port and
// inet_csk_bind_conflict in net/ipv4/inet_connection_sock.c): the socket has no
// SO_REUSEADDR any more, and the port as a whole is not marked as one that all
// who have it would share (tb->fastreuse), because the socket has listened:
// that mark never comes back while anybody has the port. Taking SO_REUSEADDR
// off a socket that has not listened would leave the mark, and let whoever sets
// it bind the port too, if not listen.
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

// listenAgain makes a socket listen that refuses.
func listenAgain(fd int) error {
	// Connections of earlier proxies may be in TIME_WAIT, and live ones on the port.
	if e := setInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); e != noErrno {
		return os.NewSyscallError("setsockopt", e)
	}
	return listen(fd)
}

// listen makes a socket listen that is bound with SO_REUSEADDR.
func listen(fd int) error {
	// Also where two that bound the same port with SO_REUSEADDR part: the
	// second to listen gets EADDRINUSE.
	return os.NewSyscallError("listen", unix.Listen(fd, listenBacklog))
}
