// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"net/netip"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/nat"
)

// Left deletes flows of one protocol that backends began, and that left by an address of the
// host, if contradicts is true of backend and address. Backends have the ports that they send
// from.
func (d Deleter) Left(proto nat.Proto, backends []netip.AddrPort, contradicts func(backend, left netip.AddrPort) bool) error {
	if len(backends) == 0 {
		return nil
	}
	is := make(map[netip.AddrPort]bool, len(backends))
	for _, b := range backends {
		is[b] = true
	}
	_, err := d.Table.Delete(fromBackends(proto, backends), func(f conntrack.Flow) bool {
		return is[f.Src] && f.ReplyDst.Addr() != f.Src.Addr() && contradicts(f.Src, f.ReplyDst)
	})
	return err
}

// fromBackends returns the narrowest filter that flows of all the backends pass.
func fromBackends(proto nat.Proto, backends []netip.AddrPort) conntrack.Filter {
	f := conntrack.Filter{Proto: uint8(proto), Src: backends[0].Addr(), SrcPort: backends[0].Port(), Dst: anyOf(backends[0].Addr())}
	for _, b := range backends {
		if b.Addr() != f.Src {
			f.Src = netip.Addr{}
		}
		if b.Port() != f.SrcPort {
			f.SrcPort = 0
		}
		f.Dst = union(f.Dst, anyOf(b.Addr()), false)
	}
	return f
}

// anyOf is any address of the family of another.
func anyOf(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
