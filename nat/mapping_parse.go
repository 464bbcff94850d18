// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"fmt"
	"net/netip"
	"strings"
)

// ParseMappingText reads the text form that [Mapping.String] prints:
// FRONTEND->BACKEND for TCP and FRONTEND->BACKEND/udp for UDP, each side in
// any form that [ParseMapping] takes. It checks the form only: see
// [Mapping.Validate]. Errors are [*InvalidError].
func ParseMappingText(s string) (Mapping, error) {
	rest, proto := s, TCP
	if i := strings.LastIndexByte(s, '/'); i >= 0 {
		p, err := ParseProto(s[i+1:])
		if err != nil {
			return Mapping{}, &InvalidError{What: WhatMapping, Input: s, Reason: err.Error()}
		}
		rest, proto = s[:i], p
	}
	frontend, backend, ok := strings.Cut(rest, arrow)
	if !ok {
		return Mapping{}, &InvalidError{What: WhatMapping, Input: s, Reason: `no "->" between frontend and backend`}
	}
	return parseSides(proto, frontend, backend)
}

// ParseMapping parses the three arguments of a command line.
//
//	proto     tcp | udp
//	frontend  PORT | FIRST-LAST | ADDR:PORT | ADDR:FIRST-LAST   0 as PORT: the next free one
//	backend   ADDR | ADDR:PORT | ADDR:FIRST-LAST                without ports: the frontend's
//
// An IPv6 ADDR is in brackets. As a backend without ports it may be without them, unless its
// last group could be a port: fd00::2:80 is refused, in favour of [fd00::2:80] or
// [fd00::2]:80. Ports are decimal, 1 to 65535, without sign or leading zero. Ranges have the
// same length on both sides; with frontend 0 the backend's length counts. An IPv4 address
// mapped into IPv6 (RFC 4291 section 2.5.5.2) becomes the IPv4 address, which is the one in
// packets.
// It checks the form only: see [Mapping.Validate]. Errors are [*InvalidError].
func ParseMapping(proto, frontend, backend string) (Mapping, error) {
	p, err := ParseProto(proto)
	if err != nil {
		return Mapping{}, err
	}
	return parseSides(p, frontend, backend)
}

// ParseFrontend reads a frontend in any form that [ParseMapping] takes except
// port 0, which names no mapping. It returns the address and the first port,
// and how many more consecutive ports follow. Errors are [*InvalidError].
func ParseFrontend(s string) (frontend netip.AddrPort, more uint16, err error) {
	f, reason := parseFrontend(s)
	if reason == "" && f.first == 0 {
		reason = "port 0 names no mapping"
	}
	if reason != "" {
		return netip.AddrPort{}, 0, &InvalidError{What: whatFrontend, Input: s, Reason: reason}
	}
	return netip.AddrPortFrom(f.addr, f.first), f.last - f.first, nil
}

// side is one side of a mapping as written.
type side struct {
	addr        netip.Addr
	first, last uint16
	ports       bool // a backend has ports
}

func (s side) len() int { return int(s.last) - int(s.first) + 1 }

func parseSides(proto Proto, frontend, backend string) (Mapping, error) {
	f, reason := parseFrontend(frontend)
	if reason != "" {
		return Mapping{}, &InvalidError{What: whatFrontend, Input: frontend, Reason: reason}
	}
	b, reason := parseBackend(backend)
	switch {
	case reason != "":
	case f.first == 0 && !b.ports:
		reason = "give it a port, since frontend 0 has none to share"
	case !b.ports:
		b.first, b.last = f.first, f.last
	case f.first != 0 && f.len() != b.len():
		reason = fmt.Sprintf("ranges of unequal length: frontend %s has %s, the backend %d",
			frontend, count(f.len()), b.len())
	}
	if reason != "" {
		return Mapping{}, &InvalidError{What: whatBackend, Input: backend, Reason: reason}
	}
	return Mapping{
		Proto:    proto,
		Frontend: netip.AddrPortFrom(f.addr, f.first),
		Backend:  netip.AddrPortFrom(b.addr, b.first),
		More:     b.last - b.first,
	}, nil
}

func count(ports int) string {
	if ports == 1 {
		return "1 port"
	}
	return fmt.Sprintf("%d ports", ports)
}

// The parsers below return the reason of an error, or "". The caller adds the whole input.

func parseFrontend(s string) (f side, reason string) {
	if s == "" {
		return side{}, "it is empty"
	}
	host, ports := "", s
	if strings.ContainsAny(s, ".:[]") {
		var given bool
		if host, ports, given, reason = splitHost(s); reason != "" {
			return side{}, reason
		}
		if !given && strings.Count(host, ":") > 1 && s[0] != '[' {
			return side{}, "an IPv6 frontend is written [ADDR]:PORT"
		}
		if f.addr, reason = parseAddr(host); reason != "" {
			return side{}, reason
		}
		if !given {
			return side{}, "an address alone; add a port, as in ADDR:PORT"
		}
	}
	if ports == "0" {
		return f, "" // the next free port
	}
	f.first, f.last, reason = parsePorts(ports)
	return f, reason
}

func parseBackend(s string) (b side, reason string) {
	host, ports, given, reason := splitHost(s)
	if reason != "" {
		return side{}, reason
	}
	if !given && s[0] != '[' {
		if reason = bareIPv6WithPort(s); reason != "" {
			return side{}, reason
		}
	}
	if b.addr, reason = parseAddr(host); reason != "" {
		return side{}, reason
	}
	if given {
		b.ports = true
		b.first, b.last, reason = parsePorts(ports)
	}
	return b, reason
}

// bareIPv6WithPort refuses an IPv6 address without brackets whose last group could be a
// port: most people who write fd00::2:80 mean port 80 of fd00::2, and not the address
// fd00::2:80. It returns "" for unambiguous text.
func bareIPv6WithPort(s string) (reason string) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return ""
	}
	host, ports := s[:i], s[i+1:]
	if a, err := netip.ParseAddr(host); err != nil || !a.Is6() || a.Zone() != "" {
		return ""
	}
	if _, _, fault := parsePorts(ports); fault != "" {
		return ""
	}
	if _, err := netip.ParseAddr(s); err != nil {
		return fmt.Sprintf("an IPv6 backend with a port is written [ADDR]:PORT, here [%s]:%s", host, ports)
	}
	return fmt.Sprintf("the last group may be a port: write [%s]:%s, or [%s] for an address without a port", host, ports, s)
}

// splitHost cuts ADDR:PORTS, [V6]:PORTS, or an address without ports. More
// than one colon outside brackets is a bare IPv6 address.
func splitHost(s string) (host, ports string, given bool, reason string) {
	if s == "" {
		return "", "", false, "it is empty"
	}
	if s[0] != '[' {
		i := strings.IndexByte(s, ':')
		if i < 0 || strings.IndexByte(s[i+1:], ':') >= 0 {
			return s, "", false, ""
		}
		return s[:i], s[i+1:], true, ""
	}
	i := strings.IndexByte(s, ']')
	if i < 0 {
		return "", "", false, "the bracket is not closed"
	}
	host, rest := s[1:i], s[i+1:]
	switch {
	case !strings.Contains(host, ":"):
		return "", "", false, "brackets are for IPv6 addresses"
	case rest == "":
		return host, "", false, ""
	case rest[0] != ':':
		return "", "", false, fmt.Sprintf("%q after the bracket where :PORT belongs", rest)
	}
	return host, rest[1:], true, ""
}

func parseAddr(s string) (a netip.Addr, reason string) {
	if s == "" {
		return a, "the address is missing"
	}
	if strings.Contains(s, "%") {
		return a, "an address with a zone means different hosts on different links"
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return a, fmt.Sprintf("%q is not an IP address", s)
	}
	return a.Unmap(), ""
}

func parsePorts(s string) (first, last uint16, reason string) {
	one, two, ranged := strings.Cut(s, "-")
	if ranged && (one == "" || two == "") {
		return 0, 0, "a range is written FIRST-LAST"
	}
	if first, reason = parsePort(one); reason != "" || !ranged {
		return first, first, reason
	}
	if last, reason = parsePort(two); reason == "" && last < first {
		reason = "the range ends before it begins"
	}
	return first, last, reason
}

// parsePort is stricter than strconv.ParseUint, which would let "0080" be 80:
// there is one way to write a port.
func parsePort(s string) (port uint16, reason string) {
	if s == "" {
		return 0, "the port is missing"
	}
	n := 0
	for i := range len(s) {
		c := s[i]
		if c < '0' || c > '9' {
			return 0, fmt.Sprintf("port %q is not a number", s)
		}
		if n = n*10 + int(c-'0'); n > 65535 {
			return 0, "ports end at 65535"
		}
	}
	switch {
	case n == 0:
		return 0, "ports begin at 1"
	case s[0] == '0':
		return 0, fmt.Sprintf("port %q has a leading zero", s)
	}
	return uint16(n), ""
}
