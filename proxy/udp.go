// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// udpSocketBuffer is the size of both buffers of the frontend, which the bursts of all
// clients share: thousands of full Ethernet frames with the kernel's overhead. It takes
// memory only for datagrams that wait. Without CAP_NET_ADMIN the kernel limits it to
// net.core.rmem_max and wmem_max.
const udpSocketBuffer = 4 << 20

// udpProxy is a Proxy for UDP. One loop serves all of it.
type udpProxy struct {
	*base
	port     uint16        // of the frontend
	pktinfo  bool          // the frontend is a wildcard: flows differ by local address too
	offload  bool          // UDP_GRO is on at the frontend and tried on flows
	maxGSO   int           // the longest segment that may leave the frontend by UDP_SEGMENT
	idle     time.Duration // 0: never
	flows    map[flowKey]*udpFlow
	fronts   map[pktinfo]*udpFront // by local address and port; nil: answers leave by the frontend
	last     *udpFlow              // the flow of the last datagram: bursts come from one client
	order    list[udpFlow]         // in order of activity
	timer    timer                 // the front of order
	watched  bool                  // by home
	draining bool                  // takes no new flows
	refused  *match                // these clients get no flows, while refuse runs
	deadline int64                 // loop time at which all flows end; 0: none
}

// newUDP makes the proxy; b.fd is bound to local.
func newUDP(b *base, local netip.AddrPort) (*udpProxy, error) {
	p := &udpProxy{base: b, port: local.Port(), pktinfo: local.Addr().IsUnspecified() || b.backends != nil, maxGSO: maxDatagram}
	b.proto = p
	switch idle := b.opts.IdleTimeout; {
	case idle == 0:
		p.idle = DefaultFlowTimeout
	case idle > 0:
		p.idle = idle
	}
	p.timer.expire = p.expire
	switch {
	case b.backends != nil:
		if err := tellAsked(b.fd, local.Addr()); err != nil {
			return nil, err
		}
	case p.pktinfo:
		if err := tellLocal(b.fd, local.Addr()); err != nil {
			return nil, err
		}
	}
	p.offload = setInt(b.fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) == noErrno
	widen(b.fd)
	return p, nil
}

// widen gives a socket the buffers of a frontend.
func widen(fd int) {
	for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if setInt(fd, unix.SOL_SOCKET, o[0], udpSocketBuffer) != noErrno {
			// After a refusal it works with the default.
			setInt(fd, unix.SOL_SOCKET, o[1], udpSocketBuffer)
		}
	}
}

// tellLocal has a socket of a wildcard address report to which address each datagram came,
// and receive no multicast: one datagram to ff02::1 would have every host of the link
// answer.
func tellLocal(fd int, wildcard netip.Addr) error {
	options := [][3]int{
		// Without it no answer leaves from an address of a prefix that is routed to
		// this host as local (ip6_datagram_send_ctl in net/ipv6/datagram.c).
		{unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1},
		{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1},
		{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0},
		// For the IPv4 datagrams of a dual-stack socket too.
		{unix.IPPROTO_IP, unix.IP_PKTINFO, 1},
		{unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0},
	}
	if wildcard.Is4() {
		options = options[3:]
	}
	return setAll(fd, options)
}

// setAll sets options: levels, names and values.
func setAll(fd int, options [][3]int) error {
	for _, o := range options {
		if e := setInt(fd, o[0], o[1], int32(o[2])); e != noErrno {
			return os.NewSyscallError("setsockopt", e)
		}
	}
	return nil
}

// listen implements served.
func (p *udpProxy) listen() error {
	p.flows = make(map[flowKey]*udpFlow)
	if p.backends != nil {
		p.fronts = make(map[pktinfo]*udpFront)
	}
	if p.home.udp == nil {
		p.home.udp = newUDPBatch()
	}
	if e := p.home.watch(p.fd, p, evIn); e != noErrno {
		return os.NewSyscallError("epoll_ctl", e)
	}
	p.watched = true
	return nil
}

// consolidate implements served: only the home loop serves a UDP proxy.
func (p *udpProxy) consolidate(bool) {}

// stopAccepting implements served. A proxy that drains keeps its socket, because the
// flows' answers leave by it, and reads it for them unless it is shared: then its
// datagrams are the other process's.
func (p *udpProxy) stopAccepting(gently bool) {
	p.draining = gently
	if !gently {
		p.closeFrontend()
		return
	}
	if p.idle == 0 || p.idle > drainIdle {
		p.idle = drainIdle
	}
	if p.shared {
		p.deadline = p.home.now + int64(p.group.answering)
		p.home.unwatch(p.fd)
	}
	p.expire()
}

func (p *udpProxy) closeFrontend() {
	if !p.watched {
		return
	}
	p.home.udp.flush()
	p.home.unwatch(p.fd)
	closeFD(p.fd)
	p.watched = false
}

// drop implements served.
func (p *udpProxy) drop(l *loop) {
	if l != p.home {
		return
	}
	p.closeFrontend()
	p.endFlows(nil)
	l.disarm(&p.timer)
}

// endFlows ends flows, on the home loop; new ones can begin.
func (p *udpProxy) endFlows(which *match) {
	all := which == nil || !p.pktinfo && which.backend(p.fd)
	for n := p.order.front; n != nil; {
		f := n.item
		n = n.next
		if all || which.matches(f) {
			f.end()
		}
	}
}

// matches reports whether a flow matches, but for the address of a frontend that has one.
func (m *match) matches(f *udpFlow) bool {
	if m.client {
		return m.addr(f.key.client.decode().Addr())
	}
	if m.port != nil {
		return m.port(f.key.local.addrPort())
	}
	return f.proxy.pktinfo && m.addr(f.key.local.addr()) || m.backend(f.fd)
}

// reset implements served.
func (p *udpProxy) reset(which *match) {
	p.home.with(func() {
		p.endFlows(which)
		if which != nil && which.client && p.watched && !p.draining {
			p.refuse(which)
		}
	})
}

// refuse reads what has arrived by now, without flows for clients that match.
func (p *udpProxy) refuse(which *match) {
	p.refused = which
	defer func() { p.refused = nil }()
	b := p.home.udp
	for range mostWaiting {
		b.flush()
		n := b.receive(p.fd, batch, true)
		p.distribute(b, n)
		if n < batch {
			return
		}
	}
}

// mostWaiting bounds the batches that can wait at a socket: a datagram takes at least 768 bytes
// of its buffer, which is twice as large as it was asked to be.
const mostWaiting = 2 * udpSocketBuffer / 768 / batch

// leaveBackend implements served.
func (p *udpProxy) leaveBackend(_ bool, which *match) { p.reset(which) }

// readTurn bounds the batches read from one socket in one turn.
const readTurn = 4

// ready implements handler: datagrams wait at the frontend.
func (p *udpProxy) ready(fd int, _ uint32) {
	b := p.home.udp
	for range readTurn {
		b.flush() // pending answers lie in the buffers that are needed now
		n := b.receive(fd, batch, true)
		p.distribute(b, n)
		if n < batch {
			return
		}
	}
}

// distribute sends n datagrams just received to the backend by their flows;
// consecutive ones of one client together.
func (p *udpProxy) distribute(b *udpBatch, n int) {
	var key flowKey
	for first := 0; first < n; {
		b.key(first, p.pktinfo, &key)
		next := first + 1
		for next < n && b.same(first, next, p.pktinfo) {
			next++
		}
		switch f := p.flow(&key); {
		case f == nil:
			p.counters.dropped.Add(uint64(next - first))
		case p.pktinfo && f.seenByBackend(b.local[first].via):
			f.end()
		default:
			f.pass(b, first, next)
		}
		first = next
	}
}

// flow finds or makes the flow of a client; nil: there can be none.
func (p *udpProxy) flow(key *flowKey) *udpFlow {
	f := p.last
	if f == nil || f.key != *key {
		if f = p.flows[*key]; f == nil {
			if p.draining {
				return nil
			}
			if f = p.open(key); f == nil {
				return nil
			}
		}
		p.last = f
	}
	f.touch()
	return f
}

// open makes a flow, if necessary in place of the one silent longest.
func (p *udpProxy) open(key *flowKey) *udpFlow {
	client := key.client.decode().Addr()
	if client.Unmap().IsUnspecified() {
		return nil // a broadcast of a client without an address
	}
	if p.refused != nil && p.refused.addr(client) {
		return nil
	}
	to := p.backend(key.local.addrPort)
	if to == nil {
		return nil
	}
	for len(p.flows) >= p.opts.MaxFlows {
		p.evict()
	}
	f := &udpFlow{proxy: p, key: *key, maxGSO: maxDatagram}
	e := f.dial(to)
	if starved(e) {
		p.counters.acceptErrors.Add(1)
		if p.order.front != nil {
			p.evict()
			e = f.dial(to)
		}
	}
	if e != noErrno {
		if !starved(e) {
			p.counters.refused.Add(1) // no route, for instance
		}
		return nil
	}
	f.since = p.home.now
	f.node.item = f
	p.order.pushBack(&f.node)
	p.flows[f.key] = f
	p.counters.live.Add(1)
	p.counters.total.Add(1)
	if p.idle > 0 && p.timer.index == 0 {
		p.home.arm(&p.timer, f.since+int64(p.idle))
	}
	return f
}

// starved reports whether an error means that this process or host has no more
// descriptors or memory.
func starved(e unix.Errno) bool {
	return e == unix.EMFILE || e == unix.ENFILE || e == unix.ENOBUFS || e == unix.ENOMEM
}

// evict ends the flow silent longest.
func (p *udpProxy) evict() {
	p.counters.evicted.Add(1)
	p.order.front.item.end()
}

// expire ends the flows that were silent too long and arms the timer for the next.
func (p *udpProxy) expire() {
	if p.idle <= 0 {
		return
	}
	for n := p.order.front; n != nil; n = p.order.front {
		when := n.item.since + int64(p.idle)
		if p.deadline != 0 {
			when = min(when, p.deadline)
		}
		if when > p.home.now {
			p.home.arm(&p.timer, when)
			return
		}
		n.item.end()
	}
}
