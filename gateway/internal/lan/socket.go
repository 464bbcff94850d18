// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxDatagram is the most of a datagram that is read: requests of PCP have up to 1,100 bytes, and of
	// SSDP what fits into a packet.
	maxDatagram = 2048
	// receiveBuffer is for a burst of requests; where the process may not choose, the host's limit holds.
	receiveBuffer = 4 << 20
	// errorPause is waited for after an error of a socket, so that one that persists does not take the processor.
	errorPause = 50 * time.Millisecond
)

// Packet is a datagram from the LAN.
type Packet struct {
	Data []byte // a part of what Read was given
	// From is the source; a link-local one has the device as its zone.
	From netip.AddrPort
	// To is the destination: an address of this host, or a group.
	To netip.Addr
	// Local is the address of this host to answer from: To, or for a group the device's.
	Local  netip.Addr
	Device string
	// Truncated is whether the datagram was longer than Data.
	Truncated bool
}

// Socket sends and receives datagrams on all devices of a LAN.
type Socket struct {
	lan    *LAN
	port   uint16
	v6     bool
	groups []netip.Addr

	received chan *received
	sockets  sockets[*conn]
}

// conn is a socket of the kernel.
type conn struct {
	*net.UDPConn
	socketKey
	index int
}

func (c *conn) deviceIndex() int { return c.index }

// received is a datagram on its way from the reader of a device.
type received struct {
	Packet
	taken chan struct{} // the reader goes on
}

// Listen opens a socket of each device, and of both families if v6 is set, and joins the groups of its
// family. Without groups, nobody else can have the port.
func (l *LAN) Listen(port uint16, v6 bool, groups ...netip.Addr) (*Socket, error) {
	s := &Socket{
		lan: l, port: port, v6: v6, groups: groups,
		received: make(chan *received), sockets: newSockets[*conn](),
	}
	if err := l.add(s); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on the LAN: %w", err), s.Close())
	}
	return s, nil
}

func (s *Socket) adjust(devices map[string]*Device) error {
	return s.sockets.adjust(devices, s.v6, func(key socketKey, d *Device) (*conn, error) {
		c, err := s.open(key, d.Index)
		if err != nil {
			network, _ := key.wildcard("udp", s.port)
			return nil, fmt.Errorf("%s port %d on %s: %w", network, s.port, d.Name, err)
		}
		return c, nil
	}, s.read)
}

// open opens a socket of a device.
func (s *Socket) open(key socketKey, index int) (*conn, error) {
	network, address := key.wildcard("udp", s.port)
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return control(raw, func(fd int) error { return s.prepare(fd, key) })
	}}
	pc, err := lc.ListenPacket(context.Background(), network, address)
	if err != nil {
		return nil, cause(err)
	}
	c, ok := pc.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%T is no socket of UDP", pc), pc.Close())
	}
	raw, err := c.SyscallConn()
	if err == nil {
		err = control(raw, func(fd int) error { return s.join(fd, key, index) })
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &conn{c, key, index}, nil
}

// control calls f with the descriptor.
func control(raw syscall.RawConn, f func(fd int) error) error {
	var err error
	if failed := raw.Control(func(fd uintptr) { err = f(int(fd)) }); failed != nil {
		return failed
	}
	return err
}

// cause removes what net puts around an error.
func cause(err error) error {
	var sys syscall.Errno
	if errors.As(err, &sys) {
		return sys
	}
	return err
}

// prepare sets the options of a socket before it is bound.
func (s *Socket) prepare(fd int, key socketKey) error {
	ttl := 1
	if len(s.groups) != 0 {
		ttl = 2 // UPnP Device Architecture 1.1, section 1.1.2
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
	}
	if err := unix.BindToDevice(fd, key.device); err != nil {
		return fmt.Errorf("bind to the device: %w", err)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer) // as much as the host allows
	}
	if key.v6 {
		return errors.Join(
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1),
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0),
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, ttl),
		)
	}
	return errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, ttl),
	)
}

// join joins the groups of the family.
func (s *Socket) join(fd int, key socketKey, index int) error {
	for _, g := range s.groups {
		var err error
		switch {
		case g.Is6() != key.v6:
		case key.v6:
			err = unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: g.As16(), Interface: uint32(index)})
		default:
			err = unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: g.As4(), Ifindex: int32(index)})
		}
		if err != nil {
			return fmt.Errorf("join %s: %w", g, err)
		}
	}
	return nil
}

// read passes on what a device receives until its socket is closed.
func (s *Socket) read(c *conn) {
	buf, oob := make([]byte, maxDatagram), make([]byte, 128)
	r := &received{taken: make(chan struct{})}
	for {
		n, m, flags, from, err := c.ReadMsgUDPAddrPort(buf, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.sockets.pause()
			continue
		}
		index, to, ok := destination(oob[:m])
		why := dropDevice
		if ok && from.Port() != 0 && index == c.index {
			why = s.lan.check(c.device, index, from.Addr(), to, s.groups)
		}
		if why != dropNone {
			s.lan.drops.count(why)
			continue
		}
		r.Packet = Packet{Data: buf[:n], From: from, To: to, Local: to, Device: c.device, Truncated: flags&unix.MSG_TRUNC != 0}
		if to.IsMulticast() {
			r.Local = s.local(c, from.Addr())
		}
		select {
		case s.received <- r:
			<-r.taken
		case <-s.sockets.done:
			return
		}
	}
}

// destination reads the device on which a datagram arrived and where it was sent to (ip(7), ipv6(7)).
func destination(oob []byte) (index int, to netip.Addr, ok bool) {
	for len(oob) != 0 {
		header, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return 0, to, false
		}
		switch {
		case header.Level == unix.IPPROTO_IP && header.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0]))
			return int(info.Ifindex), netip.AddrFrom4(info.Addr), true
		case header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0]))
			return int(info.Ifindex), netip.AddrFrom16(info.Addr), true
		}
		oob = rest
	}
	return 0, to, false
}

// local returns the address of a device that answers to one on its link.
func (s *Socket) local(c *conn, peer netip.Addr) netip.Addr {
	d, _ := s.lan.Device(c.device)
	for _, p := range d.Addrs {
		if p.Contains(peer.WithZone("")) {
			return p.Addr()
		}
	}
	if peer.Is4() {
		return d.Addr4()
	}
	return d.Link6().WithZone("")
}

// Read waits for a datagram, and puts it into buf. The error is net.ErrClosed after Close.
func (s *Socket) Read(buf []byte) (Packet, error) {
	select {
	case r := <-s.received:
		p := r.Packet
		n := copy(buf, p.Data)
		p.Truncated = p.Truncated || n < len(p.Data)
		p.Data = buf[:n]
		r.taken <- struct{}{}
		return p, nil
	case <-s.sockets.done:
		return Packet{}, net.ErrClosed
	}
}

// Reply answers a datagram, from the address that it was sent to.
func (s *Socket) Reply(p Packet, data []byte) error {
	return s.write(p.Device, p.Local, p.From, data)
}

// Send sends a datagram by a device, from its own address of the family: of IPv6 the link-local one, or for a group that is
// wider than the link one that is too, if there is any.
func (s *Socket) Send(device string, to netip.AddrPort, data []byte) error {
	d, ok := s.lan.Device(device)
	if !ok {
		return fmt.Errorf("send to %s: %s is not there", to, device)
	}
	from := d.Addr4()
	if to.Addr().Is6() {
		from = d.Link6()
		if wide := d.first(isWide); wide.IsValid() && !to.Addr().IsLinkLocalMulticast() {
			from = wide
		}
	}
	if !from.IsValid() {
		return fmt.Errorf("send to %s: %s has no address", to, device)
	}
	return s.write(device, from, to, data)
}

func isWide(a netip.Addr) bool { return a.Is6() && !a.IsLinkLocalUnicast() }

func (s *Socket) write(device string, from netip.Addr, to netip.AddrPort, data []byte) error {
	s.sockets.mu.Lock()
	c := s.sockets.open[socketKey{device, to.Addr().Is6()}]
	s.sockets.mu.Unlock()
	if c == nil {
		return fmt.Errorf("send to %s: %s: %w", to, device, net.ErrClosed)
	}
	var oob []byte
	if to.Addr().Is6() {
		oob = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: from.As16(), Ifindex: uint32(c.index)})
	} else {
		oob = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: from.As4(), Ifindex: int32(c.index)})
	}
	_, _, err := c.WriteMsgUDPAddrPort(data, oob, to)
	return err
}

// Close closes the sockets, and waits until nobody reads from them.
func (s *Socket) Close() error {
	s.lan.remove(s)
	return s.sockets.close()
}
