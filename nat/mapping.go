// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"net/netip"
	"strconv"
	"time"
)

// Mapping says where what arrives at a frontend goes. Two mappings are equal
// by ==, and a Mapping is a map key, as long as both are valid
// ([Mapping.Validate]): there is one way only to write each valid mapping.
type Mapping struct {
	// Proto is [TCP] or [UDP]; zero is refused.
	Proto Proto
	// Frontend is the local address and the first port that clients use.
	// A zero Addr means any local address of both families, 0.0.0.0 any IPv4
	// address, :: any IPv6 address. Port 0 asks for the next free port, or for
	// the next More+1 consecutive free ports.
	Frontend netip.AddrPort
	// Backend is the address and the first port behind; both must be given.
	Backend netip.AddrPort
	// More is the number of further consecutive ports after the first, on both
	// sides; zero: a single port.
	More uint16
	// Name says whose the mapping is: 0 to 63 bytes of UTF-8. It is kept as
	// the comment of the mapping's element in the kernel.
	Name string
	// NoProxy leaves the mapping to netfilter alone. Zero: a userland proxy
	// serves it where netfilter cannot.
	NoProxy bool
	// Expires is when the mapping ends by itself, to the millisecond, in any time
	// zone; what an engine returns is in UTC. Zero: never.
	Expires time.Time
}

// arrow stands between frontend and backend, as it has in "docker ps" since 2013.
const arrow = "->"

// String returns the text form, which [ParseMappingText] reads back:
//
//	8080->172.17.0.2:80
//	53->172.17.0.2:53/udp
//	[2001:db8::1]:8000-8009->[fd00::2]:9000-9009
//	0->172.17.0.2:80-89
//
// Name, NoProxy and Expires are not part of it.
func (m Mapping) String() string {
	var buf [112]byte // the longest, of two IPv6 ranges and /udp, has 109 bytes
	return string(m.AppendTo(buf[:0]))
}

// AppendTo appends the text form of m to b and returns the result.
func (m Mapping) AppendTo(b []byte) []byte {
	b = m.appendFrontend(b)
	b = append(b, arrow...)
	b = m.appendBackend(b)
	if m.Proto != TCP {
		b = append(b, '/')
		b = append(b, m.Proto.String()...)
	}
	return b
}

// FrontendText returns the frontend part of the text form, which
// [ParseFrontend] reads back unless the port is 0: 8080, 192.0.2.1:8000-8009.
func (m Mapping) FrontendText() string {
	var buf [64]byte
	return string(m.appendFrontend(buf[:0]))
}

// BackendText returns the backend part of the text form: 172.17.0.2:80,
// [fd00::2]:9000-9009.
func (m Mapping) BackendText() string {
	var buf [64]byte
	return string(m.appendBackend(buf[:0]))
}

func (m Mapping) appendBackend(b []byte) []byte {
	b = appendHost(b, m.Backend.Addr())
	b = append(b, ':')
	return appendPorts(b, m.Backend.Port(), m.More)
}

func (m Mapping) appendFrontend(b []byte) []byte {
	if host := m.Frontend.Addr(); host.IsValid() {
		b = appendHost(b, host)
		b = append(b, ':')
	}
	if m.Frontend.Port() == 0 {
		// How many free ports are asked for stands at the backend; "0-9"
		// would read as the ports from 0 to 9.
		return append(b, '0')
	}
	return appendPorts(b, m.Frontend.Port(), m.More)
}

// appendHost puts IPv6 addresses in brackets (RFC 5952 section 6).
func appendHost(b []byte, a netip.Addr) []byte {
	if !a.Is6() {
		return a.AppendTo(b)
	}
	b = append(b, '[')
	b = a.AppendTo(b)
	return append(b, ']')
}

// appendPorts is wider than a port inside, so that a range past 65535, which
// Validate refuses, is named as what it is and does not wrap.
func appendPorts(b []byte, first, more uint16) []byte {
	b = strconv.AppendUint(b, uint64(first), 10)
	if more > 0 {
		b = append(b, '-')
		b = strconv.AppendUint(b, uint64(first)+uint64(more), 10)
	}
	return b
}
