// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"net/netip"
	"strconv"
	"strings"
)

// PortSpec is a port of an endpoint with its frontend. It is comparable.
type PortSpec struct {
	// Proto is [TCP] or [UDP].
	Proto Proto
	// Frontend is that of a [Mapping]: a zero Addr means any address, port 0 the next free
	// port.
	Frontend netip.AddrPort
	// Backend is the endpoint's port, the first of them: 1 to 65535.
	Backend uint16
	// More is as [Mapping.More].
	More uint16
}

// PortSpecError says that text is no port spec. It is an ErrInvalid.
type PortSpecError struct {
	Spec string
	// UnknownProto is true if only the protocol, Proto, is wrong.
	UnknownProto bool
	Proto        string
}

// Error returns one line, with the text of 2013.
func (e *PortSpecError) Error() string {
	if e.UnknownProto {
		return "Invalid port format: unknown protocol " + printable(e.Proto) + "."
	}
	return "Invalid port format: " + strconv.Quote(e.Spec)
}

// Unwrap returns [ErrInvalid].
func (e *PortSpecError) Unwrap() error { return ErrInvalid }

// printable returns s, quoted if it has characters that do not print.
func printable(s string) string {
	if quoted := strconv.Quote(s); quoted != `"`+s+`"` {
		return quoted
	}
	return s
}

// ParsePortSpec reads the notation of 2013, the protocol at the end, TCP if none is
// given:
//
//	4500              backend port 4500, the frontend's is chosen
//	:4501             4501 on both sides
//	4502:4503         frontend 4502, backend 4503
//	4502:4503/udp     over UDP
//	192.0.2.1:4502:4503, [2001:db8::1]:4502:4503     on one address
//	8000-8009:9000-9009, 8000-8009, :8000-8009       ranges
//
// A frontend of 0 is chosen. Errors are [*PortSpecError].
func ParsePortSpec(spec string) (PortSpec, error) {
	bad := &PortSpecError{Spec: spec}
	ports, proto, given := strings.Cut(spec, "/")
	s := PortSpec{Proto: TCP}
	switch {
	case strings.Contains(proto, "/"):
		return PortSpec{}, bad
	case given && proto != TCP.String() && proto != UDP.String():
		bad.UnknownProto, bad.Proto = true, proto
		return PortSpec{}, bad
	case proto == UDP.String():
		s.Proto = UDP
	}
	host, front, back, ok := splitSpec(ports)
	if !ok {
		return PortSpec{}, bad
	}
	var addr netip.Addr
	if host != "" {
		var reason string
		if addr, reason = parseAddr(host); reason != "" {
			return PortSpec{}, bad
		}
	}
	first, last, reason := parsePorts(back)
	if reason != "" {
		return PortSpec{}, bad
	}
	s.Backend, s.More = first, last-first
	if front == "0" {
		s.Frontend = netip.AddrPortFrom(addr, 0)
		return s, nil
	}
	from, to, reason := parsePorts(front)
	if reason != "" || to-from != s.More {
		return PortSpec{}, bad
	}
	s.Frontend = netip.AddrPortFrom(addr, from)
	return s, nil
}

// splitSpec splits a spec without its protocol. A frontend that is to be chosen is "0".
func splitSpec(s string) (host, front, back string, ok bool) {
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 || !strings.HasPrefix(s[end+1:], ":") || !strings.Contains(s[:end], ":") {
			return "", "", "", false
		}
		front, back, ok = strings.Cut(s[end+2:], ":")
		return s[1:end], front, back, ok
	}
	fields := strings.Split(s, ":")
	switch len(fields) {
	case 1:
		return "", "0", fields[0], true
	case 2:
		if fields[0] == "" {
			return "", fields[1], fields[1], true
		}
		return "", fields[0], fields[1], true
	case 3:
		return fields[0], fields[1], fields[2], fields[0] != ""
	}
	return "", "", "", false
}

// String returns the shortest text for ParsePortSpec that has both sides.
func (s PortSpec) String() string {
	var b []byte
	if host := s.Frontend.Addr(); host.IsValid() {
		b = append(appendHost(b, host), ':')
	}
	switch port := s.Frontend.Port(); {
	case port != 0:
		b = append(appendPorts(b, port, s.More), ':')
	case len(b) != 0:
		b = append(b, "0:"...)
	}
	b = appendPorts(b, s.Backend, s.More)
	if s.Proto != TCP {
		b = append(append(b, '/'), s.Proto.String()...)
	}
	return string(b)
}

// Mapping returns the mapping of the spec for an endpoint.
func (s PortSpec) Mapping(name string, addr netip.Addr) Mapping {
	return Mapping{
		Proto: s.Proto, Frontend: s.Frontend, Backend: netip.AddrPortFrom(addr, s.Backend), More: s.More, Name: name,
	}
}

// SpecOf returns the spec of a mapping of an endpoint. ok is false if it cannot be written as a
// spec.
func SpecOf(m Mapping) (s PortSpec, ok bool) {
	s = PortSpec{Proto: m.Proto, Frontend: m.Frontend, Backend: m.Backend.Port(), More: m.More}
	return s, m == s.Mapping(m.Name, m.Backend.Addr())
}
