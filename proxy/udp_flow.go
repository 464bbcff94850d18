// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import "golang.org/x/sys/unix"

// flowKey tells flows apart: the client's address, and the local address that
// it asked, since it expects the answers from there.
type flowKey struct {
	client rawName
	local  pktinfo // zero where the frontend is one address
}

// udpFlow is one client's socket to the backend. It belongs to the goroutine
// of its proxy's loop. An idle flow costs this struct, its place in the map
// and one descriptor.
type udpFlow struct {
	node   node[udpFlow] // in order of its proxy
	proxy  *udpProxy
	key    flowKey
	fd     int
	maxGSO int   // the longest segment that the way to the backend takes by UDP_SEGMENT
	since  int64 // loop time of the last datagram in either direction
}

// dial opens the socket. Being connected, it hears the backend only, and
// learns of ICMP errors.
func (f *udpFlow) dial() unix.Errno {
	p := f.proxy
	fd, e := socket(p.to.family, unix.SOCK_DGRAM)
	if e != noErrno {
		return e
	}
	if e = connect(fd, p.to); e == noErrno {
		if p.offload {
			setInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
		}
		// Level-triggered: a pending error makes recvmmsg return early, so
		// "fewer than asked for" does not mean that the queue is empty.
		e = p.home.watch(fd, f, evIn)
	}
	if e != noErrno {
		closeFD(fd)
		return e
	}
	f.fd = fd
	return noErrno
}

// touch notes activity.
func (f *udpFlow) touch() {
	f.since = f.proxy.home.now
	f.proxy.order.moveToBack(&f.node)
}

// end closes the flow. Answers that wait to be sent are sent: they hold on to
// the key only.
func (f *udpFlow) end() {
	p := f.proxy
	p.home.forget(f.fd)
	closeFD(f.fd)
	p.order.remove(&f.node)
	delete(p.flows, f.key)
	if p.last == f {
		p.last = nil
	}
	p.gone()
}

// forward sends received datagrams first..next-1 to the backend.
func (f *udpFlow) forward(b *udpBatch, first, next int) {
	out := outlet{fd: f.fd, maxGSO: &f.maxGSO, dropped: &f.proxy.counters.dropped, bytes: &f.proxy.counters.toBackend}
	b.begin(&out)
	b.queue(first, next, nil)
	b.send()
}

// ready implements handler: the backend has answered, or its host has reported
// an error, which says nothing about the next datagram and ends nothing.
func (f *udpFlow) ready(fd int, _ uint32) {
	p := f.proxy
	b := p.home.udp
	b.answer(p)
	first := b.used
	n := b.receive(fd, batch-first, false)
	if n == 0 {
		return
	}
	f.touch()
	b.queue(first, first+n, &f.key)
}
