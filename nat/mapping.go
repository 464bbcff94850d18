// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"net/netip"
	"strconv"
	"time"
)

// Mapping is a protocol, a frontend, and the backend that it leads to. Valid mappings
// ([Mapping.Validate]) can be compared with == and be map keys, because each has only one
// form.
type Mapping struct {
	// Proto is [TCP] or [UDP]; zero is refused.
	Proto Proto
	// Frontend is the local address and the first port that clients use.
	// A zero Addr means any local address of both families, 0.0.0.0 any IPv4
	// address, :: any IPv6 address. Port 0 asks for the next free port, or for
	// the next More+1 consecutive free ports.
	Frontend netip.AddrPort
	// Backend is the address and first port to which the frontend leads; both are required.
	Backend netip.AddrPort
	// More is the number of further consecutive ports after the first, on both
	// sides; zero: a single port.
	More uint16
	// Name is the owner's name: 0 to 4,096 bytes of UTF-8. It is the comment of the mapping's
	// element in the kernel, and what is longer than 63 bytes is kept as [Name] says.
	Name string
	// NoProxy serves the mapping by netfilter only. Zero: a proxy serves what netfilter
	// cannot.
	NoProxy bool
	// ProxyOnly serves the mapping by a proxy only, so that the backend sees the host as the
	// client. Zero: netfilter serves what it can. It contradicts NoProxy.
	ProxyOnly bool
	// Masquerade gives clients of netfilter the host's address towards the backend, for
	// backends that have no route back to the clients. Zero: the backend sees the client's
	// address. Mappings to one port of a backend that share frontend addresses have to agree
	// on it. A proxy does it anyway: it contradicts ProxyOnly, and frontends that only a
	// proxy serves cannot have it.
	Masquerade bool
	// From are the addresses from which clients may reach the mapping, of the frontend's
	// family. Clients on this host always may. Zero: anyone.
	From Sources
	// Hold is whether other programs are kept from using the port. Zero: they are.
	Hold Hold
	// Expires is when the mapping ends by itself, in milliseconds and in any time zone. An
	// engine returns it in UTC. Zero: never.
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
// The fields after More are not part of it.
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
		// The backend shows the number of free ports; "0-9" would mean
		// the ports from 0 to 9.
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

// appendPorts computes with int, so that a range past 65535, which Validate refuses, is
// printed without wrapping.
func appendPorts(b []byte, first, more uint16) []byte {
	b = strconv.AppendUint(b, uint64(first), 10)
	if more > 0 {
		b = append(b, '-')
		b = strconv.AppendUint(b, uint64(first)+uint64(more), 10)
	}
	return b
}
