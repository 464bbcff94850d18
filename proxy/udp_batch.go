// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// batch is how many messages one system call receives at most. Their
	// buffers are 2 MiB of address space for each loop.
	batch = 32

	// maxDatagram is the longest UDP payload there is, over IPv6: a length
	// field of 16 bits less the header (RFC 768). Over IPv4 it is 65,507.
	maxDatagram = 65527

	// bufferSize is for one message: a datagram, or what UDP_GRO joined.
	bufferSize = 64 << 10

	// maxSegments is what every kernel with UDP_SEGMENT takes in one message
	// (UDP_MAX_SEGMENTS in include/linux/udp.h; newer ones take 128).
	maxSegments = 64

	// maxJoined is the payload of one UDP_SEGMENT message: with the longest
	// headers it must fit the 16 bits of an IPv4 total length.
	maxJoined = 65535 - 60 - 8
)

// udpBatch is the buffers for the datagrams of all proxies of a loop. They take
// memory only as far as datagrams have filled them. A buffer is filled again only
// after flush.
type udpBatch struct {
	in    [batch]mmsghdr
	names [batch]rawName
	ctl   [batch]control
	iov   [batch]unix.Iovec
	size  [batch]int // bytes received
	seg   [batch]int // size of the segments joined in them; 0: one datagram
	local [batch]arrival
	buf   []byte // batch times bufferSize

	used     int  // buffers whose contents wait to be sent
	replying bool // answers wait for outlet to

	to     outlet
	out    []mmsghdr
	sizes  []outSize // of each of out
	outIov []unix.Iovec
	outCtl []control
}

// outSize is the size of a message.
type outSize struct {
	payload int
	segment int // UDP_SEGMENT; 0: none
}

// outlet is where messages go.
type outlet struct {
	fd      int
	maxGSO  *int
	dropped *atomic.Uint64
	bytes   *atomic.Uint64
}

// outRoom bounds the messages of one sendmmsg.
const outRoom = 64

func newUDPBatch() *udpBatch {
	b := &udpBatch{
		buf:    make([]byte, batch*bufferSize),
		out:    make([]mmsghdr, 0, outRoom),
		sizes:  make([]outSize, 0, outRoom),
		outIov: make([]unix.Iovec, 0, outRoom+batch),
		outCtl: make([]control, outRoom),
	}
	for i := range b.in {
		b.iov[i].Base = &b.buf[i*bufferSize]
		b.iov[i].SetLen(bufferSize)
		h := &b.in[i].hdr
		h.Iov = &b.iov[i]
		h.SetIovlen(1)
	}
	return b
}

// receive fills up to most of the free buffers, and with named reads senders and
// local addresses too. An error is about a datagram sent long ago, and needs nothing
// but the read that removed it from the socket.
func (b *udpBatch) receive(fd, most int, named bool) int {
	first := b.used
	in := b.in[first : first+most]
	for i := range in {
		h := &in[i].hdr
		h.Control = &b.ctl[first+i].b[0]
		h.SetControllen(controlRoom)
		if named {
			h.Name = &b.names[first+i][0]
			h.Namelen = unix.SizeofSockaddrInet6
		} else {
			h.Name, h.Namelen = nil, 0
		}
	}
	n, e := recvmmsg(fd, in)
	if e != noErrno {
		return 0
	}
	for i := first; i < first+n; i++ {
		m := &b.in[i]
		b.size[i] = int(m.n)
		b.seg[i] = 0
		if m.hdr.Controllen == 0 {
			continue
		}
		var local *arrival
		if named {
			b.local[i] = arrival{}
			local = &b.local[i]
		}
		b.seg[i] = b.ctl[i].parse(int(m.hdr.Controllen), local)
		if b.seg[i] >= b.size[i] {
			b.seg[i] = 0
		}
	}
	return n
}

// payload is what datagram i holds.
func (b *udpBatch) payload(i int) []byte { return b.buf[i*bufferSize:][:b.size[i]] }

// key makes the key of datagram i.
func (b *udpBatch) key(i int, local bool, key *flowKey) {
	key.client = b.names[i]
	// The rest may be of a longer address.
	clear(key.client[b.in[i].hdr.Namelen:])
	key.local = pktinfo{}
	if local {
		key.local = b.local[i].pktinfo
	}
}

// same reports whether datagrams i and j belong to one flow.
func (b *udpBatch) same(i, j int, local bool) bool {
	n := b.in[i].hdr.Namelen
	return n == b.in[j].hdr.Namelen &&
		string(b.names[i][:n]) == string(b.names[j][:n]) &&
		(!local || b.local[i] == b.local[j])
}

// answer makes room for an answer of a flow, after flushing those by another frontend.
func (b *udpBatch) answer(f *udpFlow) {
	p := f.proxy
	fd, maxGSO := p.fd, &p.maxGSO
	if f.front != nil {
		fd, maxGSO = f.front.fd, &f.front.maxGSO
	}
	if b.to.fd != fd || b.used == batch {
		b.flush()
	}
	if !b.replying {
		b.replying = true
		b.to = outlet{fd: fd, maxGSO: maxGSO, dropped: &p.counters.dropped, bytes: &p.counters.toClient}
	}
}

// flush sends the answers that wait.
func (b *udpBatch) flush() {
	if b.replying {
		b.send()
		b.replying = false
		b.used = 0
	}
}

// queue lists received datagrams first..next-1 of one flow for sending, to its
// client if flow is given. It joins datagrams of one size, the last of which may be
// shorter, and UDP_SEGMENT splits them again.
func (b *udpBatch) queue(first, next int, flow *udpFlow) {
	for i := first; i < next; {
		if b.seg[i] != 0 {
			b.queueJoined(i, flow)
			i++
			continue
		}
		size, total := b.size[i], b.size[i]
		end := i + 1
		if size > 0 && size <= *b.to.maxGSO {
			for end < next && end-i < maxSegments && b.seg[end] == 0 &&
				b.size[end] > 0 && b.size[end] <= size && total+b.size[end] <= maxJoined {
				total += b.size[end]
				end++
				if b.size[end-1] < size {
					break
				}
			}
		}
		b.makeRoom(end - i)
		at := len(b.outIov)
		for j := i; j < end; j++ {
			b.addIov(&b.buf[j*bufferSize], b.size[j])
		}
		segment := 0
		if end-i > 1 {
			segment = size
		}
		b.addMsg(at, total, segment, flow)
		i = end
	}
	if flow != nil {
		b.used = next
	}
}

// queueJoined lists datagrams that UDP_GRO joined, split if the outlet cannot send
// them as they are.
func (b *udpBatch) queueJoined(i int, flow *udpFlow) {
	size, segment := b.size[i], b.seg[i]
	if segment <= *b.to.maxGSO && size <= maxJoined && size <= segment*maxSegments {
		b.makeRoom(1)
		at := len(b.outIov)
		b.addIov(&b.buf[i*bufferSize], size)
		b.addMsg(at, size, segment, flow)
		return
	}
	for off := 0; off < size; off += segment {
		b.makeRoom(1)
		at := len(b.outIov)
		n := min(segment, size-off)
		b.addIov(&b.buf[i*bufferSize+off], n)
		b.addMsg(at, n, 0, flow)
	}
}

// makeRoom sends the list if it has no room for a message of n parts.
func (b *udpBatch) makeRoom(n int) {
	if len(b.out) == outRoom || len(b.outIov)+n > cap(b.outIov) {
		b.send()
	}
}

func (b *udpBatch) addIov(base *byte, n int) {
	v := unix.Iovec{Base: base}
	v.SetLen(n)
	b.outIov = append(b.outIov, v)
}

// addMsg lists a message made of outIov[at:].
func (b *udpBatch) addMsg(at, size, segment int, flow *udpFlow) {
	i := len(b.out)
	b.out = append(b.out, mmsghdr{})
	b.sizes = append(b.sizes, outSize{size, segment})
	h := &b.out[i].hdr
	h.Iov = &b.outIov[at]
	h.SetIovlen(len(b.outIov) - at)
	n := 0
	if flow != nil {
		key := &flow.key
		h.Name = &key.client[0]
		h.Namelen = unix.SizeofSockaddrInet6
		if key.client.family() == unix.AF_INET {
			h.Namelen = unix.SizeofSockaddrInet4
		}
		if flow.front == nil {
			n = b.outCtl[i].putLocal(n, &key.local, flow.via)
		}
	}
	if segment != 0 {
		n = b.outCtl[i].putSegment(n, segment)
	}
	if n != 0 {
		h.Control = &b.outCtl[i].b[0]
		h.SetControllen(n)
	}
}

// send sends the list. A UDP socket reports errors of earlier datagrams by failing a
// later call, which then sends nothing: so a failed message is tried again.
func (b *udpBatch) send() {
	sent := 0
	retries := 2
	for i := 0; i < len(b.out); {
		var n int
		var e unix.Errno
		if len(b.out)-i == 1 {
			if e = sendmsg(b.to.fd, &b.out[i].hdr); e == noErrno {
				n = 1
			}
		} else {
			n, e = sendmmsg(b.to.fd, b.out[i:])
		}
		if e == noErrno {
			for ; n > 0; n-- {
				sent += b.sizes[i].payload
				i++
			}
			retries = 2
			continue
		}
		if b.sizes[i].segment != 0 && (e == unix.EINVAL || e == unix.EIO || e == unix.EMSGSIZE) {
			// No UDP_SEGMENT: longer than the path MTU (EINVAL, EMSGSIZE), or
			// the interface has no checksum offload (EIO).
			if *b.to.maxGSO = b.sizes[i].segment - 1; e == unix.EIO {
				*b.to.maxGSO = 0
			}
			sent += b.sendApart(i)
			i++
			continue
		}
		if retries--; retries >= 0 && e != unix.EAGAIN && e != unix.ENOBUFS && e != unix.EMSGSIZE {
			continue
		}
		b.to.dropped.Add(uint64(b.datagrams(i)))
		retries = 2
		i++
	}
	b.to.bytes.Add(uint64(sent))
	clear(b.out) // they point to keys of flows
	b.out, b.sizes, b.outIov = b.out[:0], b.sizes[:0], b.outIov[:0]
}

// datagrams is how many datagrams message i of out stands for.
func (b *udpBatch) datagrams(i int) int {
	if s := b.sizes[i].segment; s != 0 {
		return (b.sizes[i].payload + s - 1) / s
	}
	return 1
}

// sendApart sends the segments of message i one by one.
func (b *udpBatch) sendApart(i int) (sent int) {
	h := b.out[i].hdr // a copy: same name
	var c control
	// The pktinfo, which comes first, without the UDP_SEGMENT behind it.
	n := int(h.Controllen) - unix.CmsgSpace(2)
	h.Control = nil
	h.SetControllen(n)
	if n > 0 {
		copy(c.b[:n], b.outCtl[i].b[:n])
		h.Control = &c.b[0]
	}
	segment := b.sizes[i].segment
	for _, v := range iovecs(&b.out[i].hdr) {
		base := part(&v)
		for len(base) > 0 {
			n := min(segment, len(base))
			v := unix.Iovec{Base: &base[0]}
			v.SetLen(n)
			h.Iov = &v
			h.SetIovlen(1)
			e := sendmsg(b.to.fd, &h)
			if e != noErrno && e != unix.EAGAIN && e != unix.ENOBUFS && e != unix.EMSGSIZE {
				e = sendmsg(b.to.fd, &h)
			}
			if e == noErrno {
				sent += n
			} else {
				b.to.dropped.Add(1)
			}
			base = base[n:]
		}
	}
	return sent
}
