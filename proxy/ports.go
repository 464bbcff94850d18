// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Backends returns the address that a client is led to who asks for a local address and port, or the zero
// value: it is refused. IPv4 addresses are not mapped. It is called on other goroutines, by
// several at a time, and must not block.
type Backends func(local netip.AddrPort) netip.AddrPort

// Ports is a Proxy for many ports behind one socket, to which something in the kernel leads them (sk_lookup). A connection
// costs what it does elsewhere. A UDP flow has one more socket, bound to the address and port that its client asked
// for, by which it is answered, and which receives what the client sends next. Its frontend's address is that of the socket and means nothing; it
// has no backend of its own, and SetBackend is ErrAddr. Broadcasts do not come to it.
type Ports struct{ Proxy }

// BindPorts returns a socket for Ports of a network, "tcp" or "udp". It is bound to 127.0.0.1, whence alone its own port can be
// reached, which the kernel chooses, and can be led IPv6 as well, if the host has it. If that port itself is to be bound, bind another socket, lead the
// ports to it and close the first. Of opts, which may be nil, only Group and BeforeBind count.
func BindPorts(network string, opts *Options) (*Socket, error) {
	s := &Socket{network: network, fd: -1}
	if network != "tcp" && network != "udp" {
		return nil, fmt.Errorf("bind socket for ports: %w: network %q", ErrAddr, network)
	}
	only := Options{}
	if opts != nil {
		only.Group, only.BeforeBind = opts.Group, opts.BeforeBind
	}
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	err := only.inNetNS(func() error {
		sa, err := encode(netip.AddrPortFrom(netip.IPv6Unspecified(), 0))
		if err != nil {
			return err
		}
		// A mapped address, because any other of IPv6 makes the socket one for IPv6 alone
		// (__inet6_bind in net/ipv6/af_inet6.c).
		a := loopback.As16()
		copy(sa.raw.host(), a[:])
		err = s.openAt(sa, &only)
		if !noIPv6(err) {
			return err
		}
		return s.open(netip.AddrPortFrom(loopback, 0), &only)
	})
	if err != nil {
		return nil, fmt.Errorf("bind %s socket for ports: %w", network, err)
	}
	return s, nil
}

// Ports makes a proxy for many ports, not open yet, which owns the socket from then on. Something must lead the ports to
// its descriptor. Errors are those of Proxy.
func (s *Socket) Ports(backends Backends, opts *Options) (*Ports, error) {
	p, err := s.become(nil, backends, opts)
	if err != nil {
		return nil, fmt.Errorf("proxy of ports at %s: %w", s.Addr(), err)
	}
	return &Ports{p}, nil
}

// BackendAddr implements Proxy: there is none.
func (p *Ports) BackendAddr() net.Addr { return nil }

// SetBackend implements Proxy. It is an error.
func (p *Ports) SetBackend(net.Addr) error {
	return fmt.Errorf("proxy of ports: %w: its backends are a function's", ErrAddr)
}

// Changed tells that Backends returns something else than before for local addresses that match. Connections keep the backend that they have;
// those that it has not answered get the new one, or are reset if there is none. UDP flows end, and
// begin again with the next datagram; so nothing of the proxy is bound to a port that was changed, unless it is a new
// flow. ErrClosed: the proxy is closed.
func (p *Ports) Changed(which func(local netip.AddrPort) bool) error {
	return p.base().each(which, func(proto served, m *match) { proto.leaveBackend(true, m) })
}

// ResetPorts is Reset for those connections and flows alone whose local address towards the client matches. ErrClosed: the proxy is closed,
// and so are they.
func (p *Ports) ResetPorts(which func(local netip.AddrPort) bool) error {
	return p.base().each(which, func(proto served, m *match) { proto.reset(m) })
}

func (p *Ports) base() *base {
	switch p := p.Proxy.(type) {
	case *tcpProxy:
		return p.base
	case *udpProxy:
		return p.base
	}
	return nil // which cannot be
}

func (b *base) each(which func(netip.AddrPort) bool, f func(served, *match)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == closed {
		return ErrClosed
	}
	if b.state != bound && b.counters.live.Load() != 0 {
		f(b.proto, &match{port: which})
	}
	return nil
}

// tellAsked has a socket report which address and port each datagram was sent to.
func tellAsked(fd int, bound netip.Addr) error {
	options := [][3]int{{unix.IPPROTO_IPV6, unix.IPV6_RECVORIGDSTADDR, 1}, {unix.IPPROTO_IP, unix.IP_RECVORIGDSTADDR, 1}}
	if bound.Is4() {
		options = options[1:]
	}
	return setAll(fd, options)
}

// udpFront is a flow's own frontend: bound to what the client asked for, and connected to it.
type udpFront struct {
	flow   *udpFlow
	fd     int
	maxGSO int // the longest segment that the path to the client takes by UDP_SEGMENT
}

// openFront opens the flow's own frontend. Others' datagrams for its address and port do not come to it: what leads
// ports to sockets comes before those that are not connected yet.
func (f *udpFlow) openFront() unix.Errno {
	p := f.proxy
	local, err := encode(f.key.local.addrPort())
	if err != nil {
		return unix.EADDRNOTAVAIL
	}
	to, err := encode(f.key.client.decode())
	if err != nil {
		return unix.EADDRNOTAVAIL
	}
	fd, e := socket(local.family, unix.SOCK_DGRAM)
	if e != noErrno {
		return e
	}
	u := &udpFront{flow: f, fd: fd, maxGSO: maxDatagram}
	if e = u.open(local, to); e == noErrno {
		e = p.home.watch(fd, u, evIn)
	}
	if e != noErrno {
		closeFD(fd)
		return e
	}
	f.front = u
	return noErrno
}

func (u *udpFront) open(local, to *sockaddr) unix.Errno {
	p := u.flow.proxy
	// Flows of several clients have one address and port.
	if e := setInt(u.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); e != noErrno {
		return e
	}
	// The address may be of a prefix that is routed to this host as local.
	if e := setFreeBind(u.fd, local.family); e != noErrno {
		return e
	}
	if p.opts.BeforeBind != nil && p.opts.BeforeBind(u.fd) != nil {
		return unix.EADDRINUSE
	}
	if e := bindTo(u.fd, local); e != noErrno {
		return e
	}
	if e := connect(u.fd, to); e != noErrno {
		return e
	}
	if p.offload {
		setInt(u.fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	}
	widen(u.fd)
	return noErrno
}

// ready implements handler: the client has sent more.
func (u *udpFront) ready(int, uint32) {
	f := u.flow
	b := f.proxy.home.udp
	for range readTurn {
		b.flush() // pending answers lie in the buffers that are needed now
		n := b.receive(u.fd, batch, false)
		if n > 0 {
			f.touch()
			f.pass(b, 0, n)
		}
		if n < batch {
			return
		}
	}
}

// close closes the frontend; answers that wait leave by it before.
func (u *udpFront) close() {
	l := u.flow.proxy.home
	if l.udp.to.fd == u.fd {
		l.udp.flush()
	}
	l.forget(u.fd)
	closeFD(u.fd)
}
