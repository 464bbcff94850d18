// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import "golang.org/x/sys/unix"

// flowKey identifies a flow: the client's address, and the local address that it
// sent to, from which it expects the answers.
type flowKey struct {
	client rawName
	local  pktinfo // zero if the frontend is one address
}

// udpFlow is one client's socket to the backend. An idle flow costs this struct, an
// entry in the map and one descriptor.
type udpFlow struct {
	node   node[udpFlow] // in the proxy's order
	proxy  *udpProxy
	key    flowKey
	fd     int
	tftp   *tftpFlow // nil: the backend answers from the port that it was asked at
	front  *udpFront // of a proxy of many ports: what answers leave by. Else nil
	via    int32     // the interface of the client's last datagram if that was a broadcast, or 0
	maxGSO int       // the longest segment that the path to the backend takes by UDP_SEGMENT
	since  int64     // loop time of the last datagram in either direction
}

// dial opens the socket. A connected one receives from the backend alone, and
// reports ICMP errors.
func (f *udpFlow) dial(to *sockaddr) unix.Errno {
	p := f.proxy
	fd, e := socket(to.family, unix.SOCK_DGRAM)
	if e != noErrno {
		return e
	}
	if to.port() == tftpPort {
		f.tftp = &tftpFlow{flow: f, server: *to}
	} else if e = connect(fd, to); e == noErrno && p.offload {
		setInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	}
	if e == noErrno {
		// Level-triggered: recvmmsg also returns early for a pending error, so
		// that a short batch does not mean an empty queue.
		e = p.home.watch(fd, f, evIn)
	}
	if e == noErrno && p.backends != nil {
		if f.front, e = p.front(&f.key); e != noErrno {
			p.home.forget(fd)
		}
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

// end closes the flow. Answers that wait are still sent: they need only the key.
func (f *udpFlow) end() {
	p := f.proxy
	p.leaveFront(f)
	p.home.forget(f.fd)
	closeFD(f.fd)
	p.order.remove(&f.node)
	delete(p.flows, f.key)
	if p.last == f {
		p.last = nil
	}
	p.gone()
}

// seenByBackend reports whether the backend itself has received what the client has sent
// last, on the client's link. via is the interface of a broadcast, or 0.
func (f *udpFlow) seenByBackend(via int32) bool {
	f.via = via
	if via == 0 || f.proxy.target.Load().to.port() != f.proxy.port {
		return false
	}
	// The host speaks to both from one address.
	local, err := localAddr(f.fd)
	return err == nil && local.Addr() == f.key.local.addr()
}

// pass sends received datagrams first..next-1 to the backend.
func (f *udpFlow) pass(b *udpBatch, first, next int) {
	if f.tftp != nil {
		f.tftp.forward(b, first, next)
		return
	}
	b.to = outlet{fd: f.fd, maxGSO: &f.maxGSO, dropped: &f.proxy.counters.dropped, bytes: &f.proxy.counters.toBackend}
	b.queue(first, next, nil)
	b.send()
}

// ready implements handler: the backend has answered, or its host has reported an
// error, which ends nothing.
func (f *udpFlow) ready(fd int, _ uint32) {
	p := f.proxy
	b := p.home.udp
	b.answer(f)
	first := b.used
	n := b.receive(fd, batch-first, f.tftp != nil)
	if n == 0 {
		return
	}
	if f.tftp != nil {
		f.tftp.queue(b, first, first+n)
		return
	}
	f.touch()
	b.queue(first, first+n, f)
}
