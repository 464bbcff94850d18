// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// These benchmarks measure the inner parts of a loop alone, on one thread, including the
// kernel's share. BenchmarkTCP and BenchmarkUDP measure with processes at both ends.

// maxTries bounds the attempts to receive what was sent: on loopback the kernel delivers
// at once, or when one of its threads runs.
const maxTries = 1 << 22

// BenchmarkCopy carries messages that go through user memory.
func BenchmarkCopy(b *testing.B) {
	for _, size := range []int{64, 16 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) { benchmarkMove(b, size, false) })
	}
}

// BenchmarkSplice carries messages that do not.
func BenchmarkSplice(b *testing.B) {
	for _, size := range []int{64 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) { benchmarkMove(b, size, true) })
	}
}

func benchmarkMove(b *testing.B, size int, bulk bool) {
	b.Helper()
	l := &loop{tcpLoop: tcpLoop{buf: make([]byte, smallRead)}}
	l.pipes.limit, l.pipes.size = 1, pipeSize
	b.Cleanup(l.pipes.trim)
	in, from := connected(b, unix.SOCK_STREAM)
	to, out := connected(b, unix.SOCK_STREAM)
	c := &tcpConn{shard: &tcpShard{loop: l}}
	c.side = [2]half{{fd: from}, {fd: to}}
	message, got := make([]byte, size), make([]byte, size)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		sent := 0
		for arrived, tries := 0, 0; arrived < size; tries++ {
			if tries == maxTries {
				b.Fatalf("%d bytes of %d have arrived", arrived, size)
			}
			n, e := send(in, message[sent:]) // none when all is sent, or there is no room
			if e != noErrno && e != unix.EAGAIN {
				b.Fatal(e)
			}
			if e == noErrno {
				sent += n
			}
			// As an edge of epoll reports it.
			c.side[client].readable, c.side[backend].writable = true, true
			c.side[client].bulk = bulk
			if _, ok := c.move(client); !ok {
				b.Fatal("the connection has ended")
			}
			if n, e = recv(out, got[arrived:]); e == noErrno {
				arrived += n
			}
		}
	}
}

// BenchmarkDatagrams carries batches of one client's datagrams to the backend.
func BenchmarkDatagrams(b *testing.B) {
	for _, size := range []int{64, 1400} {
		b.Run(fmt.Sprint(size), func(b *testing.B) { benchmarkDatagrams(b, size) })
	}
}

func benchmarkDatagrams(b *testing.B, size int) {
	b.Helper()
	sender, front := connected(b, unix.SOCK_DGRAM)
	flow, receiver := connected(b, unix.SOCK_DGRAM)
	for _, fd := range []int{front, receiver} { // joined datagrams are taken as one
		require.Zero(b, setInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1))
	}
	clients, batches, receivers := newUDPBatch(), newUDPBatch(), newUDPBatch()
	maxGSO := maxDatagram
	var counters counters
	to := outlet{fd: flow, maxGSO: &maxGSO, dropped: &counters.dropped, bytes: &counters.toBackend}
	all := make([]mmsghdr, batch)
	for i := range all {
		all[i] = clients.in[i]
		clients.iov[i].SetLen(size)
	}
	b.SetBytes(int64(size * batch))
	b.ReportAllocs()
	for b.Loop() {
		for n := 0; n < batch; {
			sent, e := sendmmsg(sender, all[n:])
			if e != noErrno {
				b.Fatal(e)
			}
			n += sent
		}
		for arrived, tries := 0, 0; arrived < size*batch; tries++ {
			if tries == maxTries {
				b.Fatalf("%d bytes of %d have arrived", arrived, size*batch)
			}
			n := batches.receive(front, batch, true)
			batches.to = to
			batches.queue(0, n, nil)
			batches.send()
			for i := range receivers.receive(receiver, batch, false) {
				arrived += receivers.size[i]
			}
		}
	}
	require.Zero(b, counters.dropped.Load())
}

// connected makes a pair of sockets that are connected over loopback.
func connected(b *testing.B, kind int) (one, other int) {
	b.Helper()
	open := func() int {
		fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
		require.NoError(b, err)
		require.NoError(b, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
		return fd
	}
	join := func(fd, to int) {
		name, err := unix.Getsockname(to)
		require.NoError(b, err)
		require.NoError(b, unix.Connect(fd, name))
	}
	one, other = open(), open()
	if kind == unix.SOCK_STREAM {
		require.NoError(b, unix.Listen(other, 1))
	}
	join(one, other)
	if kind == unix.SOCK_STREAM {
		fd, _, err := unix.Accept4(other, unix.SOCK_CLOEXEC)
		require.NoError(b, err)
		closeFD(other)
		other = fd
		require.Zero(b, setInt(one, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
		require.Zero(b, setInt(other, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	} else {
		join(other, one)
	}
	for _, fd := range []int{one, other} {
		require.NoError(b, unix.SetNonblock(fd, true))
		b.Cleanup(func() { closeFD(fd) })
	}
	return one, other
}
