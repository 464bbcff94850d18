// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"net/netip"
	"strings"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nft"
)

// The maps of shared ports lead clients on this host, which would come to the program that has the
// port, to the proxy that an engine has for it, at another port of this host:
//
//	tcp4_shared       ports of any address
//	tcp4_host_shared  those of one address; and for UDP and IPv6
//
// They say what the engine has open, and are no record of anything.
const (
	suffixShared     = "_shared"
	suffixHostShared = hostSuffix + suffixShared
)

// IsShared reports whether a map is one of shared ports.
func IsShared(set string) bool { return strings.HasSuffix(set, suffixShared) }

// sharedMaps returns the maps.
func sharedMaps() (sets []nft.Set) {
	for _, of := range []struct {
		name string
		addr nft.DataType
	}{{"tcp4", nft.IPv4Addr}, {"udp4", nft.IPv4Addr}, {"tcp6", nft.IPv6Addr}, {"udp6", nft.IPv6Addr}} {
		sets = append(sets,
			nft.Set{Name: of.name + suffixShared, Key: nft.Type{nft.InetService}, Value: nft.Type{nft.InetService}},
			nft.Set{Name: of.name + suffixHostShared, Key: nft.Type{of.addr, nft.InetService}, Value: nft.Type{nft.InetService}})
	}
	return sets
}

// natLocalhost leads clients that other programs would get otherwise: those of loopback addresses,
// and those whom natOutput leaves to the proxies. It is before the chains of others, which may do
// that for the program that has the port. At this hook, redirect leads to 127.0.0.1 or ::1.
func natLocalhost() nft.Chain {
	return nft.Chain{
		Name:    "nat-localhost",
		Comment: "clients on this host, past the programs that share a port",
		Hook:    nft.Hook{Type: "nat", Point: "output", Priority: nft.PriorityDstNAT - 1},
		Rules: []nft.Rule{
			{nft.Within(nft.IPDaddr, loopback4()), nft.Jump("past-holders4")},
			{nft.Within(nft.IP6Daddr, loopback6()), nft.Jump("past-holders6")},
			{nft.Within(nft.IPSaddr, loopback4()), nft.DaddrLocal(), nft.Jump("past-holders4")},
			{nft.Within(nft.IP6Saddr, loopback6()), nft.DaddrLocal(), nft.Jump("past-holders6")},
			{nft.In(setProxiedSources+"4", nft.IPSaddr), nft.DaddrLocal(), nft.Jump("past-holders4")},
			{nft.In(setProxiedSources+"6", nft.IP6Saddr), nft.DaddrLocal(), nft.Jump("past-holders6")},
		},
	}
}

// pastHolders returns the chains that look shared ports up, one for each family.
func pastHolders() []nft.Chain {
	return []nft.Chain{
		{
			Name:    "past-holders4",
			Comment: "what shared ports lead to: the proxies of this process",
			Rules: []nft.Rule{
				{nft.OverIPv4(), nft.OverTCP(), nft.RedirectTo("tcp4"+suffixHostShared, nft.IPDaddr, nft.TCPDport)},
				{nft.OverIPv4(), nft.OverUDP(), nft.RedirectTo("udp4"+suffixHostShared, nft.IPDaddr, nft.UDPDport)},
				{nft.OverTCP(), nft.RedirectTo("tcp4"+suffixShared, nft.TCPDport)},
				{nft.OverUDP(), nft.RedirectTo("udp4"+suffixShared, nft.UDPDport)},
			},
		},
		{
			Name:    "past-holders6",
			Comment: "the same for IPv6",
			Rules: []nft.Rule{
				{nft.OverIPv6(), nft.OverTCP(), nft.RedirectTo("tcp6"+suffixHostShared, nft.IP6Daddr, nft.TCPDport)},
				{nft.OverIPv6(), nft.OverUDP(), nft.RedirectTo("udp6"+suffixHostShared, nft.IP6Daddr, nft.UDPDport)},
				{nft.OverTCP(), nft.RedirectTo("tcp6"+suffixShared, nft.TCPDport)},
				{nft.OverUDP(), nft.RedirectTo("udp6"+suffixShared, nft.UDPDport)},
			},
		},
	}
}

// SharedElement returns the element that leads clients of one family who ask for a shared port to a port of the loopback
// address.
func SharedElement(f portset.Frontend, is4 bool, to uint16) nft.Element {
	el := nft.Element{Set: f.Proto.String() + digitOf(is4), Value: netip.AddrPortFrom(netip.Addr{}, to)}
	if f.Host().IsValid() {
		el.Set, el.Key = el.Set+suffixHostShared, nft.AddrPortKey(f.AddrPort)
	} else {
		el.Set, el.Key = el.Set+suffixShared, nft.PortKey(f.AddrPort.Port())
	}
	return el
}

// readShared sorts elements of the maps into those that an engine can have made and others.
func (c *Contents) readShared(elements []nft.Element) {
	for _, el := range elements {
		if c.keep(el, el.Comment == "" && el.Value.Port() != 0 && el.Key.AddrPort().Port() != 0) {
			c.Shared = append(c.Shared, el)
		}
	}
}
