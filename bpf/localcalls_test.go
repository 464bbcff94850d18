// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"runtime"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
)

// Of struct io_uring_params, io_uring_sqe and io_uring_cqe (linux/io_uring.h).
const (
	ringConnect = 16 // IORING_OP_CONNECT
	ringSend    = 9  // IORING_OP_SENDMSG
	ringEnd     = 1  // IORING_ENTER_GETEVENTS
	ringEntries = 2
	requestLen  = 64
	answerLen   = 16
)

type ringOffsets struct{ head, tail, mask, entries, flags, dropped, array, reserved uint32 }

type answerOffsets struct{ head, tail, mask, entries, overflow, answers, flags, reserved uint32 }

type ringParams struct {
	requests, answers, flags, cpu, idle, features, wq uint32
	_                                                 [3]uint32
	request                                           ringOffsets
	_                                                 uint64
	answer                                            answerOffsets
	_                                                 uint64
}

// ring is a queue of the kernel for system calls.
type ring struct {
	fd              int
	params          ringParams
	queue, answers  []byte
	requests        []byte
	asked, answered uint32
}

// openRing opens one. unix.EPERM and unix.ENOSYS: it is not permitted here.
func openRing(t *testing.T) (*ring, error) {
	t.Helper()
	r := &ring{}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, ringEntries, uintptr(unsafe.Pointer(&r.params)), 0)
	if errno != 0 {
		return nil, errno
	}
	r.fd = int(fd)
	t.Cleanup(func() { require.NoError(t, unix.Close(r.fd)) })
	for _, m := range []struct {
		to     *[]byte
		offset int64
		size   uint32
	}{
		{&r.queue, 0, r.params.request.array + 4*r.params.requests},
		{&r.answers, 0x8000000, r.params.answer.answers + answerLen*r.params.answers},
		{&r.requests, 0x10000000, requestLen * r.params.requests},
	} {
		b, err := unix.Mmap(r.fd, m.offset, int(m.size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, unix.Munmap(b)) })
		*m.to = b
	}
	return r, nil
}

// call makes a system call by the ring, and waits for its result.
func (r *ring) call(t *testing.T, operation byte, fd int, addr unsafe.Pointer, length uint32, offset uint64) error {
	t.Helper()
	i := r.asked & (r.params.requests - 1)
	request := r.requests[requestLen*i:][:requestLen]
	clear(request)
	request[0] = operation
	binary.NativeEndian.PutUint32(request[4:], uint32(fd))
	binary.NativeEndian.PutUint64(request[8:], offset)
	binary.NativeEndian.PutUint64(request[16:], uint64(uintptr(addr)))
	binary.NativeEndian.PutUint32(request[24:], length)
	binary.NativeEndian.PutUint32(r.queue[r.params.request.array+4*i:], i)
	r.asked++
	binary.NativeEndian.PutUint32(r.queue[r.params.request.tail:], r.asked)
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), 1, 1, ringEnd, 0, 0)
	require.Zero(t, errno)
	runtime.KeepAlive(addr)
	answer := r.answers[r.params.answer.answers+answerLen*(r.answered&(r.params.answers-1)):]
	r.answered++
	binary.NativeEndian.PutUint32(r.answers[r.params.answer.head:], r.answered)
	if result := int32(binary.NativeEndian.Uint32(answer[8:])); result < 0 {
		return unix.Errno(-result)
	}
	return nil
}

// rawAddress is an address as the kernel takes it.
func rawAddress(addr string) (unsafe.Pointer, uint32) {
	port := func(n int) uint16 { return binary.NativeEndian.Uint16([]byte{byte(n >> 8), byte(n)}) }
	switch a := sockaddr(addr).(type) {
	case *unix.SockaddrInet4:
		return unsafe.Pointer(&unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port(a.Port), Addr: a.Addr}), unix.SizeofSockaddrInet4
	case *unix.SockaddrInet6:
		return unsafe.Pointer(&unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port(a.Port), Addr: a.Addr}), unix.SizeofSockaddrInet6
	}
	return nil, 0
}

// TestLocalRing: sockets that connect and send by io_uring(7).
func TestLocalRing(t *testing.T) {
	top, _, ok := localhost(t)
	if !ok {
		return
	}
	r, err := openRing(t)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		t.Log("there is no io_uring here:", err)
		return
	}
	require.NoError(t, err)
	for _, c := range []struct {
		open       func(*testing.T, *lab.NS) *socket
		asks, want string
	}{
		{tcp4, "127.0.0.1:8080", "web"}, {tcp4, "127.0.0.1:1500", "wide"}, {tcp4, "127.0.0.1:9000", "host"}, {tcp6, "[::1]:8080", "web"},
		{tcp6, "[::1]:8081", "web"}, {tcp6, "[::ffff:127.0.0.1]:8080", "web"},
		{udp4, "127.0.0.1:8080", "web"}, {udp4, "127.0.0.1:1500", "wide"}, {udp6, "[::1]:8080", "web"}, {udp6, "[::1]:8081", "web"},
	} {
		s := c.open(t, top.Host)
		addr, size := rawAddress(c.asks)
		require.NoError(t, r.call(t, ringConnect, s.fd, addr, 0, uint64(size)), c.asks)
		require.Equal(t, c.asks, s.peer())
		kind, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_TYPE)
		require.NoError(t, err)
		if kind == unix.SOCK_STREAM {
			require.Equal(t, c.want, s.reads(), c.asks)
		} else {
			_, err := unix.Write(s.fd, []byte("x"))
			require.NoError(t, err)
			s.answers(c.want, c.asks)
		}
		s.close()
	}
	for _, c := range []struct {
		open       func(*testing.T, *lab.NS) *socket
		asks, want string
	}{
		{udp4, "127.0.0.1:8080", "web"}, {udp4, "127.0.0.1:1500", "wide"}, {udp4, "127.0.0.1:9000", "host"}, {udp6, "[::1]:8080", "web"},
		{udp6, "[::ffff:127.0.0.1]:8080", "web"}, {udp6, "[::1]:8081", "host"},
	} {
		s := c.open(t, top.Host)
		addr, size := rawAddress(c.asks)
		data := []byte("x")
		part := unix.Iovec{Base: &data[0]}
		part.SetLen(len(data))
		m := &unix.Msghdr{Name: (*byte)(addr), Namelen: size, Iov: &part}
		m.SetIovlen(1)
		require.NoError(t, r.call(t, ringSend, s.fd, unsafe.Pointer(m), 1, 0), c.asks)
		runtime.KeepAlive(m)
		s.answers(c.want, c.asks)
		s.close()
	}
}

// disconnect ends the association of a socket with its peer (connect(2), AF_UNSPEC).
func (s *socket) disconnect() *socket {
	s.t.Helper()
	unspecified := unix.RawSockaddrInet4{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(s.fd), uintptr(unsafe.Pointer(&unspecified)), unix.SizeofSockaddrInet4)
	require.Zero(s.t, errno)
	return s
}

// TestLocalDisconnect: a socket that was led and is disconnected has no peer, and can be led again. One of TCP that has been connected to
// IPv4 stays with it, led or not: the kernel leaves its next connection to IPv6 without an answer.
func TestLocalDisconnect(t *testing.T) {
	top, _, ok := localhost(t)
	if !ok {
		return
	}
	for _, c := range []struct {
		open        func(*testing.T, *lab.NS) *socket
		asks, other string
	}{
		{tcp4, "127.0.0.1:8080", "127.0.0.1:1500"}, {tcp6, "[::1]:8080", "[::1]:1500"}, {tcp6, "[::1]:8081", "[::ffff:127.0.0.1]:1500"},
		{udp4, "127.0.0.1:8080", "127.0.0.1:1500"}, {udp6, "[::1]:8080", "[::1]:1500"}, {udp6, "[::1]:8081", "[::ffff:127.0.0.1]:1500"},
	} {
		s := c.open(t, top.Host)
		kind, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_TYPE)
		require.NoError(t, err)
		for range 2 {
			for _, asks := range [][2]string{{c.asks, "web"}, {c.other, "wide"}} {
				s.connect(asks[0])
				require.Equal(t, asks[0], s.peer())
				if kind == unix.SOCK_STREAM {
					require.Equal(t, asks[1], s.reads())
				} else {
					_, err := unix.Write(s.fd, []byte("x"))
					require.NoError(t, err)
					s.answers(asks[1], asks[0])
				}
				s.disconnect()
				_, err := unix.Getpeername(s.fd)
				require.ErrorIs(t, err, unix.ENOTCONN)
				if kind == unix.SOCK_DGRAM && asks[0] != "[::1]:8081" {
					s.to(asks[0]).answers(asks[1], asks[0])
				}
			}
		}
	}
}

// TestLocalMPTCPFastOpen: an MPTCP socket with data in its SYN, where the kernel has that.
func TestLocalMPTCPFastOpen(t *testing.T) {
	top, _, ok := localhost(t)
	if !ok {
		return
	}
	require.NoError(t, top.Host.Sysctl("net.ipv4.tcp_fastopen", "1"))
	for range 2 { // from the second time on there is a cookie
		for _, asks := range []string{"127.0.0.1:8080", "[::1]:8080", "[::1]:8081"} {
			family := unix.AF_INET
			if asks[0] == '[' {
				family = unix.AF_INET6
			}
			open := func() *socket { return newSocket(t, top.Host, family, unix.SOCK_STREAM, unix.IPPROTO_MPTCP) }
			s := open()
			err := unix.Sendto(s.fd, []byte("x"), unix.MSG_FASTOPEN, sockaddr(asks))
			if errors.Is(err, unix.EOPNOTSUPP) {
				t.Log("MSG_FASTOPEN:", err) // Linux 6.1
				s.connect(asks)
			} else {
				require.NoError(t, err)
			}
			require.Equal(t, "web", s.reads(), asks)
			require.Equal(t, asks, s.peer())
			s.close()

			s = open()
			if err := unix.SetsockoptInt(s.fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1); err != nil {
				t.Log("TCP_FASTOPEN_CONNECT:", err)
			}
			s.connect(asks)
			_, err = unix.Write(s.fd, []byte("x"))
			require.NoError(t, err)
			require.Equal(t, "web", s.reads(), asks)
			require.Equal(t, asks, s.peer())
			s.close()
		}
	}
}
