// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Backends returns the address that a client is led to who asks for a local address and port, or the zero
// value: it is refused. IPv4 addresses are not mapped. It is called on other goroutines, by
// several at a time, and must not block.
type Backends func(local netip.AddrPort) netip.AddrPort

// Ports is a Proxy for many ports behind one socket, to which something in the kernel leads them (sk_lookup). A connection, or a
// flow, costs what it does elsewhere, and UDP one more socket for each address and port that has flows: it is bound there,
// and answers leave by it. The frontend's address is that of the socket and means nothing; there is no backend of its own, and
// SetBackend is ErrAddr. Broadcasts do not come to it.
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
	loopback := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)
	err := only.inNetNS(func() error {
		// A mapped address, because any other of IPv6 makes the socket one for IPv6 alone
		// (__inet6_bind in net/ipv6/af_inet6.c).
		err := s.openAt(mapped(loopback), &only)
		if !noIPv6(err) {
			return err
		}
		return s.open(loopback, &only)
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
// begin again with the next datagram: until then nothing of the proxy is bound to the port. ErrClosed: the proxy is closed.
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

// udpFront is what answers leave by: a socket bound to the address and port that clients asked for, which receives
// nothing. What leads ports to sockets comes before those that are not connected, so that all datagrams come to the proxy's.
type udpFront struct {
	fd     int
	maxGSO int // the longest segment that may leave by UDP_SEGMENT
	flows  int
}

// front returns the socket for answers of a flow, which counts as one of its flows from then on.
func (p *udpProxy) front(key *flowKey) (*udpFront, unix.Errno) {
	u := p.fronts[key.local]
	if u == nil {
		local, err := encode(key.local.addrPort())
		if err != nil {
			return nil, unix.EADDRNOTAVAIL
		}
		if key.client.family() == unix.AF_INET6 && local.family == unix.AF_INET {
			local = mapped(key.local.addrPort())
		}
		fd, err := bindSocket(unix.SOCK_DGRAM, local, &Options{
			share:      true, // with a process that has left
			FreeBind:   true, // the address may be of a prefix that is routed to this host as local
			BeforeBind: p.opts.BeforeBind,
		})
		if err != nil {
			var e unix.Errno
			if !errors.As(err, &e) {
				e = unix.EADDRINUSE // of BeforeBind
			}
			return nil, e
		}
		// To itself, so that it does not count among sockets that wait for clients; what has a
		// destination goes there all the same (udp(7)).
		if e := connect(fd, local); e != noErrno {
			closeFD(fd)
			return nil, e
		}
		widen(fd)
		u = &udpFront{fd: fd, maxGSO: maxDatagram}
		p.fronts[key.local] = u
	}
	u.flows++
	return u, noErrno
}

// leaveFront counts one flow less. Answers that wait leave before the socket is closed.
func (p *udpProxy) leaveFront(f *udpFlow) {
	u := f.front
	if u == nil {
		return
	}
	if u.flows--; u.flows > 0 {
		return
	}
	if p.home.udp.to.fd == u.fd {
		p.home.udp.flush()
	}
	closeFD(u.fd)
	delete(p.fronts, f.key.local)
}
