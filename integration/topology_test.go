// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"net/netip"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// newTopology is labtest.NewTopology without rate limits of ICMP errors.
func newTopology(t *testing.T, o lab.Options) *lab.Topology {
	t.Helper()
	top := labtest.NewTopology(t, o)
	for _, ns := range top.Namespaces() {
		limitNoErrors(t, ns)
	}
	return top
}

// limitNoErrors removes a machine's rate limit of ICMP errors. By default the kernel sends six
// in a row and then one a second (Documentation/networking/ip-sysctl.rst, icmp_ratelimit), so
// that tests would see packets as dropped.
func limitNoErrors(t *testing.T, ns *lab.NS) {
	t.Helper()
	require.NoError(t, ns.Sysctl("net.ipv4.icmp_ratelimit", "0"))
	require.NoError(t, ns.Sysctl("net.ipv6.icmp.ratelimit", "0"))
}

// family is IPv4 or IPv6, with the topology's addresses.
type family struct {
	name               string
	bits               int
	client, host       netip.Addr
	second, gateway    netip.Addr
	backend1, backend2 netip.Addr
	far                netip.Addr
	wildcard           netip.Addr
}

func families(top *lab.Topology) []family {
	v4 := family{
		name: "ipv4", bits: 32, client: top.Client.V4, host: top.Host.V4,
		second: top.Second4, gateway: top.Gateway4, wildcard: netip.IPv4Unspecified(),
	}
	v6 := family{
		name: "ipv6", bits: 128, client: top.Client.V6, host: top.Host.V6,
		second: top.Second6, gateway: top.Gateway6, wildcard: netip.IPv6Unspecified(),
	}
	for _, machine := range []struct {
		ns     *lab.NS
		v4, v6 *netip.Addr
	}{
		{top.Backend1, &v4.backend1, &v6.backend1},
		{top.Backend2, &v4.backend2, &v6.backend2},
		{top.Far, &v4.far, &v6.far},
	} {
		if machine.ns != nil {
			*machine.v4, *machine.v6 = machine.ns.V4, machine.ns.V6
		}
	}
	return []family{v4, v6}
}

// at returns an address with a port, in the form of sockets and mappings.
func at(a netip.Addr, port int) string {
	return netip.AddrPortFrom(a, uint16(port)).String()
}

// ports returns the text of a range of ports, or of one port.
func ports(first, last int) string {
	if first == last {
		return strconv.Itoa(first)
	}
	return strconv.Itoa(first) + "-" + strconv.Itoa(last)
}

// toward returns an address with a range of ports, in the form of mappings. The zero address
// is any address; then there are only the ports.
func toward(a netip.Addr, first, last int) string {
	switch {
	case !a.IsValid():
		return ports(first, last)
	case a.Is6():
		return "[" + a.String() + "]:" + ports(first, last)
	}
	return a.String() + ":" + ports(first, last)
}

// suffix returns the protocol at the end of a mapping's text.
func suffix(network string) string {
	if network == "udp" {
		return "/udp"
	}
	return ""
}
