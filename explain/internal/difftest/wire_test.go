// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package difftest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/nat"
)

// marker is a pair of interfaces of its own. Packets wait in one queue a processor, whatever
// interface they come to: when a marker has arrived, all that was queued before it has been
// received, and what it caused is queued.
type marker struct{ in, out int }

const markerType = 0x88b5 // an EtherType for experiments (IEEE 802)

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func (s *site) openMarker() {
	s.Helper()
	s.in(s.markers, func() {
		for _, end := range []struct {
			name string
			fd   *int
		}{{"mk0", &s.marker.out}, {"mk1", &s.marker.in}} {
			link, err := net.InterfaceByName(end.name)
			require.NoError(s, err)
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(htons(markerType)))
			require.NoError(s, err)
			*end.fd = fd
			s.Cleanup(func() { _ = unix.Close(fd) })
			require.NoError(s, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(markerType), Ifindex: link.Index}))
		}
		require.NoError(s, unix.SetsockoptTimeval(s.marker.in, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 60}))
	})
}

// hops is how many interfaces a packet, the answer, and the solicitations of neighbours on their way
// come to at most.
const hops = 24

// quiesce waits until what was sent has gone as far as it goes.
func (s *site) quiesce() {
	s.Helper()
	to := &unix.SockaddrLinklayer{Protocol: htons(markerType), Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	s.in(s.markers, func() {
		link, err := net.InterfaceByName("mk0")
		require.NoError(s, err)
		to.Ifindex = link.Index
	})
	var b [64]byte
	for range hops {
		require.NoError(s, unix.Sendto(s.marker.out, b[:], 0, to))
		_, _, err := unix.Recvfrom(s.marker.in, b[:], 0)
		require.NoError(s, err, "wait for a marker")
	}
}

// backend is a machine that answers on the ports of the mappings.
type backend struct {
	ns        *lab.NS
	streams   []int // sockets that listen
	datagrams []int
	frames    int // a socket that sees all that arrives
}

// silentPort is where no backend answers.
const silentPort = 81

// ports are where backends answer.
func (s *site) ports(proto nat.Proto) []int {
	ports := map[int]bool{}
	for _, c := range s.clients() {
		if port := c.backendPort(); c.mapping.Proto == proto && port != silentPort {
			ports[int(port)] = true
		}
	}
	return slices.Sorted(maps.Keys(ports))
}

func (s *site) serve(ns *lab.NS) *backend {
	s.Helper()
	b := &backend{ns: ns}
	open := func(family, kind, proto int) int {
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
		require.NoError(s, err)
		s.Cleanup(func() { _ = unix.Close(fd) })
		return fd
	}
	s.in(ns, func() {
		for _, port := range s.ports(nat.TCP) {
			fd := open(unix.AF_INET6, unix.SOCK_STREAM, 0)
			require.NoError(s, unix.Bind(fd, &unix.SockaddrInet6{Port: port}))
			require.NoError(s, unix.Listen(fd, 65535))
			b.streams = append(b.streams, fd)
		}
		for _, port := range s.ports(nat.UDP) {
			fd := open(unix.AF_INET6, unix.SOCK_DGRAM, 0)
			require.NoError(s, unix.Bind(fd, &unix.SockaddrInet6{Port: port}))
			b.datagrams = append(b.datagrams, fd)
		}
		b.frames = open(unix.AF_PACKET, unix.SOCK_DGRAM, int(htons(unix.ETH_P_ALL)))
	})
	return b
}

// packet is what a backend has seen.
type packet struct {
	backend  *lab.NS
	src, dst netip.AddrPort
	proto    uint8
	flags    uint8 // of TCP
}

func (p packet) String() string {
	return fmt.Sprintf("%s saw %d %s > %s flags %#x", p.backend, p.proto, p.src, p.dst, p.flags)
}

// drain returns what has arrived at a backend since the last call.
func (b *backend) drain() (seen []packet) {
	var buf [2048]byte
	for {
		n, from, err := unix.Recvfrom(b.frames, buf[:], unix.MSG_DONTWAIT)
		if err != nil {
			return seen
		}
		if at, ok := from.(*unix.SockaddrLinklayer); !ok || at.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if p, ok := dissect(buf[:n]); ok {
			p.backend = b.ns
			seen = append(seen, p)
		}
	}
}

// dissect reads the addresses and ports of an IP packet of TCP or UDP.
func dissect(b []byte) (p packet, ok bool) {
	if len(b) < 20 {
		return p, false
	}
	var src, dst netip.Addr
	var l4 []byte
	switch b[0] >> 4 {
	case 4:
		src, _ = netip.AddrFromSlice(b[12:16])
		dst, _ = netip.AddrFromSlice(b[16:20])
		p.proto = b[9]
		if n := int(b[0]&15) * 4; n < len(b) {
			l4 = b[n:]
		}
	case 6:
		if len(b) < 40 {
			return p, false
		}
		src, _ = netip.AddrFromSlice(b[8:24])
		dst, _ = netip.AddrFromSlice(b[24:40])
		p.proto = b[6]
		l4 = b[40:]
	}
	if (p.proto != unix.IPPROTO_TCP && p.proto != unix.IPPROTO_UDP) || len(l4) < 8 {
		return p, false
	}
	p.src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(l4))
	p.dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(l4[2:]))
	if p.proto == unix.IPPROTO_TCP && len(l4) >= 14 {
		p.flags = l4[13]
	}
	return p, true
}

// answer answers the datagrams that wait, and takes and closes connections. It returns how many.
func (s *site) answer(b *backend) (connections int) {
	for _, fd := range b.streams {
		for {
			c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			if err != nil {
				break
			}
			connections++
			s.reset(c)
		}
	}
	var buf [2048]byte
	for _, fd := range b.datagrams {
		for {
			n, from, err := unix.Recvfrom(fd, buf[:], unix.MSG_DONTWAIT)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			if err == nil { // else an ICMP error about an earlier answer
				_ = unix.Sendto(fd, buf[:n], 0, from) // a route may be missing on purpose
			}
		}
	}
	return connections
}

// reset closes a stream without a word to its peer that would be answered.
func (s *site) reset(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.Close(fd)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// client is one who calls a frontend.
type client struct {
	ns       *lab.NS
	addr     netip.Addr
	mapping  nat.Mapping
	frontend netip.AddrPort
	hole     bool // the port was taken out of the mapping
}

func (c client) String() string {
	return fmt.Sprintf("%s %s from %s in %s (%s)", c.mapping.Proto, c.frontend, c.addr, c.ns, c.mapping)
}

// result is what became of a client's first packet.
type result struct {
	sport    uint16
	seen     []packet // by backends, of this client
	answered bool
	absent   bool  // the client does not have the address
	err      error // what the client's system said
	events   []event
}

func (r result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "from port %d: answered %t", r.sport, r.answered)
	if r.err != nil {
		fmt.Fprintf(&b, " (%v)", r.err)
	}
	for _, p := range r.seen {
		fmt.Fprintf(&b, "; %s", p)
	}
	return b.String()
}

// firstPort and lastPort are those from which clients send, one after another. Nothing translates them to lower
// ones.
const firstPort, lastPort = 10000, 60000

// call sends a client's first packet and returns what became of it.
func (s *site) call(c client) result {
	s.Helper()
	for _, b := range s.backends {
		s.answer(b)
		b.drain()
	}
	defer s.forget(c.ns)()
	s.trace.drain()
	s.port = max(firstPort, (s.port+1)%lastPort)
	r := result{sport: uint16(s.port)}
	family, kind := unix.AF_INET6, unix.SOCK_STREAM
	if c.addr.Is4() {
		family = unix.AF_INET
	}
	if c.mapping.Proto == nat.UDP {
		kind = unix.SOCK_DGRAM
	}
	s.in(c.ns, func() {
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		require.NoError(s, err)
		defer s.reset(fd)
		require.NoError(s, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(c.addr, r.sport))); err != nil {
			r.absent = true // an address that the scenario has removed
			return
		}
		if r.err = unix.Connect(fd, sockaddr(c.frontend)); errors.Is(r.err, unix.EINPROGRESS) {
			r.err = nil
		}
		if kind == unix.SOCK_DGRAM {
			if r.err == nil {
				_, r.err = unix.Write(fd, []byte("what"))
			}
		}
		s.quiesce()
		accepted := 0
		for _, b := range s.backends {
			accepted += s.answer(b)
		}
		if kind == unix.SOCK_DGRAM {
			s.quiesce()
			var buf [64]byte
			n, err := unix.Read(fd, buf[:])
			if r.err == nil {
				r.err = err
			}
			r.answered = n > 0
		} else {
			if code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); r.err == nil && err == nil && code != 0 {
				r.err = unix.Errno(code)
			}
			r.answered = accepted > 0
		}
	})
	s.quiesce() // what closing has sent
	r.events = s.trace.drain()
	for _, b := range s.backends {
		for _, p := range b.drain() {
			// A client that is a backend sees answers, too, late ones to earlier clients as well.
			first := p.proto == unix.IPPROTO_UDP && p.src != c.frontend || p.flags&(synFlag|ackFlag) == synFlag
			if p.proto == unix.IPPROTO_TCP && p.src.Port() < firstPort {
				continue // explain's, which has waited for a neighbour
			}
			if first && p.src.Addr().Is4() == c.addr.Is4() && (p.proto == unix.IPPROTO_UDP) == (kind == unix.SOCK_DGRAM) {
				r.seen = append(r.seen, p)
			}
		}
	}
	r.seen = ofPort(r.seen, r.sport)
	return r
}

// forget makes a client ask for its neighbours, as one that comes does. The function that it returns makes
// them known again, because the client may be a backend of others.
func (s *site) forget(ns *lab.NS) (know func()) {
	s.Helper()
	if ns == s.host {
		return func() {}
	}
	h := s.handles[ns]
	if h == nil {
		var err error
		h, err = ns.Handle()
		require.NoError(s, err)
		s.Cleanup(h.Close)
		s.handles[ns] = h
	}
	list, err := h.NeighList(0, netlink.FAMILY_ALL)
	require.NoError(s, err)
	var known []netlink.Neigh
	for _, n := range list {
		if n.State&unix.NUD_NOARP != 0 {
			continue
		}
		_ = h.NeighDel(&n) // it may have gone
		if len(n.HardwareAddr) != 0 {
			n.State = unix.NUD_REACHABLE
			known = append(known, n)
		}
	}
	return func() {
		for _, n := range known {
			_ = h.NeighSet(&n)
		}
	}
}

// ofPort leaves out packets of earlier clients, which had waited for a neighbour, if it can be told.
func ofPort(seen []packet, sport uint16) []packet {
	for _, p := range seen {
		if p.src.Port() == sport {
			return []packet{p}
		}
	}
	return seen
}

// backendPort is the port of the backend for the client's frontend.
func (c client) backendPort() uint16 {
	return c.mapping.Backend.Port() + c.frontend.Port() - c.mapping.Frontend.Port()
}

// warm makes every address answer once, so that neighbours are known.
func (s *site) warm() {
	s.Helper()
	end := time.Now().Add(30 * time.Second)
	for _, c := range s.clients() {
		for {
			r := s.call(c)
			if r.answered || c.hole || c.mapping.Backend.Port() == silentPort || c.ns != s.client && c.ns != s.other {
				break
			}
			if time.Now().After(end) {
				s.Fatalf("%s is not answered: %+v", c, r)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// Flags of TCP.
const synFlag, ackFlag = 0x02, 0x10
