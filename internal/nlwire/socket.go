// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nlwire

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// LargestDatagram is the size of a buffer that any datagram fits. The kernel makes those of a
// dump as large as the reader's buffer, up to 32 KiB (netlink_recvmsg in
// net/netlink/af_netlink.c).
const LargestDatagram = 64 << 10

// Config says what Dial opens.
type Config struct {
	// Protocol is that of netlink(7): unix.NETLINK_NETFILTER.
	Protocol int
	// NetNS is an open file descriptor of the network namespace to be in. Zero: that of the
	// calling thread.
	NetNS int
	// Groups are the multicast groups to join, as bind(2) takes them. Zero: none.
	Groups uint32
	// ReceiveBuffer is how many bytes the kernel keeps: no more than net.core.rmem_max without
	// CAP_NET_ADMIN. Zero: net.core.rmem_default.
	ReceiveBuffer int
}

// Socket is a netlink socket. Several goroutines may use it; datagrams are whole.
type Socket struct {
	conn       *netlink.Conn
	raw        syscall.RawConn
	sendBuffer int
	transfers  sync.Pool
}

// Dial opens a socket whose acknowledgements explain errors and do not quote requests.
func Dial(c Config) (*Socket, error) {
	conn, err := netlink.Dial(c.Protocol, &netlink.Config{NetNS: c.NetNS, Groups: c.Groups})
	if err != nil {
		return nil, err
	}
	s := &Socket{conn: conn, transfers: sync.Pool{New: newTransfer}}
	if s.raw, err = conn.SyscallConn(); err == nil {
		err = errors.Join(conn.SetOption(netlink.ExtendedAcknowledge, true), conn.SetOption(netlink.CapAcknowledge, true))
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if c.ReceiveBuffer != 0 {
		// Best effort: a message that has no room is lost, and the next Receive says so.
		_ = conn.SetReadBuffer(c.ReceiveBuffer)
	}
	return s, nil
}

// Close closes the socket and ends a waiting Receive.
func (s *Socket) Close() error { return s.conn.Close() }

// Port returns the address by which the kernel knows the socket.
func (s *Socket) Port() uint32 { return s.conn.PID() }

// SetReadDeadline ends a Receive that waits with os.ErrDeadlineExceeded, and those to come,
// from that moment on. The zero Time: never.
func (s *Socket) SetReadDeadline(t time.Time) error { return s.conn.SetReadDeadline(t) }

// Control calls f with the descriptor of the socket, and returns its error.
func (s *Socket) Control(f func(fd int) error) (err error) {
	control := s.raw.Control(func(fd uintptr) { err = f(int(fd)) })
	return errors.Join(control, err)
}

// Send gives the kernel a datagram. The kernel has done what it asks, and queued the
// answers, when Send returns (netlink_unicast_kernel in net/netlink/af_netlink.c).
func (s *Socket) Send(b []byte) (err error) {
	// netlink_sendmsg wants the whole datagram to fit in the send buffer, with 32
	// bytes to spare; more than net.core.wmem_max takes CAP_NET_ADMIN.
	if need := len(b) + 4096; need > s.sendBuffer {
		if err := s.conn.SetWriteBuffer(need); err != nil {
			return fmt.Errorf("set send buffer to %d bytes: %w", need, err)
		}
		s.sendBuffer = need
	}
	t := s.transfers.Get().(*transfer) //nolint:forcetypeassert // it is of New
	t.b = b
	control := s.raw.Write(t.send)
	err = errors.Join(control, t.err)
	s.keep(t)
	return err
}

// Receive reads a datagram into b, and waits for one if wait is set. Without that the error
// is EAGAIN if there is none. It is ENOBUFS, once, if the receive buffer had no room for a
// message. A datagram that another process has sent, which may look like the kernel's, is
// read as one of no bytes.
func (s *Socket) Receive(b []byte, wait bool) (n int, err error) {
	t := s.transfers.Get().(*transfer) //nolint:forcetypeassert // it is of New
	defer s.keep(t)
	t.b, t.wait = b, wait
	control := s.raw.Read(t.receive)
	switch err := errors.Join(control, t.err); {
	case err != nil:
		return 0, err
	case !t.fromKernel():
		return 0, nil
	case t.n > len(b):
		return 0, fmt.Errorf("%w: %d bytes do not fit the buffer of %d", ErrMalformed, t.n, len(b))
	}
	return t.n, nil
}

// keep keeps a transfer for another one.
func (s *Socket) keep(t *transfer) {
	t.b, t.err = nil, nil
	s.transfers.Put(t)
}

// maxInterrupts bounds how often one system call is tried again after a signal.
const maxInterrupts = 100

func ignoringEINTR(call func() error) (err error) {
	for range maxInterrupts {
		if err = call(); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return err
}
