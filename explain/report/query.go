// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// ParseQuery reads a query: a protocol, a frontend as [nat.ParseFrontend] reads it, of one port,
// and a client, an address of IPv4 or IPv6, fe80::1%eth0 if it is link-local. An empty client is
// one from elsewhere. Errors are [*nat.InvalidError].
func ParseQuery(proto, frontend, client string) (q Query, err error) {
	if q.Proto, err = nat.ParseProto(proto); err != nil {
		return Query{}, err
	}
	if m, err := nat.ParseMappingText(frontend); err == nil {
		reason := "it is a mapping, whose frontend is " + m.FrontendText()
		return Query{}, &nat.InvalidError{What: "frontend", Input: frontend, Reason: reason}
	}
	var more uint16
	if q.Frontend, more, err = nat.ParseFrontend(frontend); err != nil {
		return Query{}, err
	}
	if more != 0 {
		one := nat.Mapping{Frontend: q.Frontend}.FrontendText()
		return Query{}, &nat.InvalidError{What: "frontend", Input: frontend, Reason: "a packet goes to one port, such as " + one}
	}
	if client == "" {
		return q, nil
	}
	if q.From, err = ParseClient(client, q.Frontend.Addr()); err != nil {
		return Query{}, err
	}
	return q, nil
}

// ParseClient reads the address of a client of a frontend's address, which is invalid for any. Errors are
// [*nat.InvalidError].
func ParseClient(client string, frontend netip.Addr) (netip.Addr, error) {
	a, reason := parseClient(client)
	if reason == "" {
		reason = noClient(a, frontend)
	}
	if reason != "" {
		return netip.Addr{}, &nat.InvalidError{What: "client", Input: client, Reason: reason}
	}
	return a, nil
}

func parseClient(s string) (a netip.Addr, reason string) {
	a, err := netip.ParseAddr(s)
	if err == nil {
		return a.Unmap(), ""
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		return a, fmt.Sprintf("it is a network, and a packet comes from one address, such as %s", p.Masked().Addr().Next())
	}
	if at, err := netip.ParseAddrPort(s); err == nil {
		return a, fmt.Sprintf("the port does not matter: %s", at.Addr())
	}
	first, last, ranged := strings.Cut(s, "-")
	if from, err := netip.ParseAddr(first); ranged && err == nil {
		if _, err := netip.ParseAddr(last); err == nil {
			return a, fmt.Sprintf("it is a range, and a packet comes from one address, such as %s", from)
		}
	}
	if inner := strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"); inner != s {
		if _, err := netip.ParseAddr(inner); err == nil {
			return a, fmt.Sprintf("it is written without brackets: %s", inner)
		}
	}
	return a, "it is no IP address"
}

// noClient returns why no packet has the address as its source if it is sent to a frontend; "":
// one may.
func noClient(a, frontend netip.Addr) string {
	switch {
	case a.IsUnspecified():
		return "the unspecified address, which no packet comes from"
	case a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "an address of many, which no packet comes from"
	case a.IsLinkLocalUnicast() && a.Is6() && a.Zone() == "":
		return fmt.Sprintf("a link-local address, which needs the interface that leads to it: %s%%eth0", a)
	case a.Zone() != "" && !a.IsLinkLocalUnicast():
		return "only a link-local address has a zone"
	case frontend.IsValid() && frontend.Is4() != a.Is4():
		return fmt.Sprintf("it is of another family than %s, and a packet has one", frontend)
	}
	return ""
}
