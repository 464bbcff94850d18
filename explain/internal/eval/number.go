// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import "golang.org/x/sys/unix"

// number is something of the packet that is not known, and is in a range.
type number uint8

const (
	noNumber number = iota
	clientPort
	segmentSize // the MSS of a SYN
	hops        // TTL or hop limit, of one byte
	packetLen   // of the IP packet
	payloadLen  // of IPv6
	datagramLen // of UDP
	numbers
)

func (n number) String() string {
	switch n {
	case clientPort:
		return ClientPort
	case segmentSize:
		return "the MSS that the packet says"
	case hops:
		return "the packet's TTL"
	case packetLen, payloadLen, datagramLen:
		return "the length of the packet"
	case noNumber, numbers:
	}
	return "something of the packet"
}

// part is a byte of a number. Zero: it is of none.
type part uint8

func (n number) high() part { return part(n)<<1 | 1 }

func (n number) low() part { return part(n) << 1 }

func (p part) number() number { return number(p >> 1) }

// ranges are those of numbers, but for the port, which differs from way to way.
type ranges [numbers]PortRange

// Ranges of what clients and backends send.
const (
	leastHops        = 32 // no host on the Internet is more than 32 routers away, and each starts with 64 at least
	leastSegmentSize = 536
	mostSegmentSize  = 65495 // on the loopback interface
	leastTCP         = 20
	mostTCP          = 60
	leastUDP         = 8
)

// newRanges are the ranges of a packet's numbers.
func newRanges(p *Packet) ranges {
	header := uint16(20)
	if p.EtherType == unix.ETH_P_IPV6 {
		header = 40
	}
	length := PortRange{header + leastUDP, 65535}
	if p.Proto == unix.IPPROTO_TCP {
		length.First = header + leastTCP
		if p.TCPFlags&tcpSYN != 0 {
			length.Last = header + mostTCP
		}
	}
	ttl := PortRange{leastHops, 255}
	if p.TTL > 0 {
		ttl = PortRange{uint16(p.TTL), uint16(p.TTL)}
	}
	if p.Len > 0 {
		length = PortRange{uint16(p.Len), uint16(p.Len)}
	}
	less := func(n uint16) PortRange { return PortRange{length.First - n, length.Last - n} }
	r := ranges{segmentSize: {leastSegmentSize, mostSegmentSize}, hops: ttl, packetLen: length}
	r[payloadLen], r[datagramLen] = less(40), less(header)
	return r
}

func (s *state) rangeOf(n number) PortRange {
	if n == clientPort {
		return s.ports
	}
	return s.ranges[n]
}

// put writes the bounds of a number of one or two bytes.
func (r PortRange) put(first, last []byte) {
	if len(first) == 1 {
		first[0], last[0] = byte(r.First), byte(r.Last)
		return
	}
	first[0], first[1] = byte(r.First>>8), byte(r.First)
	last[0], last[1] = byte(r.Last>>8), byte(r.Last)
}

// part says which part of a number a byte of a header is.
func (s *state) part(h *header, i int) part {
	switch {
	case h == &s.th:
		first := -1
		switch s.client {
		case clientIsSource:
			first = 0
		case clientIsDestination:
			first = 2
		case portsKnown:
		}
		if first >= 0 {
			if p := pair(clientPort, i-first); p != 0 {
				return p
			}
		}
		if h.len == 8 && hasPorts(s.proto) {
			return s.whole(h, i, datagramLen, 4)
		}
	case h != &s.net:
	case h.len == 20 && i == 8, h.len == 40 && i == 7:
		if h.known[i] == 0 && !s.written {
			return hops.low()
		}
	case h.len == 20:
		return s.whole(h, i, packetLen, 2)
	case h.len == 40:
		return s.whole(h, i, payloadLen, 4)
	}
	return 0
}

// whole is the part of a number of two bytes at a place, if nothing is known of it.
func (s *state) whole(h *header, i int, n number, at int) part {
	if s.written || h.known[at] != 0 || h.known[at+1] != 0 {
		return 0
	}
	return pair(n, i-at)
}

func pair(n number, i int) part {
	switch i {
	case 0:
		return n.high()
	case 1:
		return n.low()
	}
	return 0
}
