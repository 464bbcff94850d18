// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"net/netip"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// Left deletes flows of one protocol that backends began, and that left by an address of the
// host, if contradicts is true of backend and address. Backends have the ports that they send
// from.
func (d Deleter) Left(proto nat.Proto, backends []portset.Backends, contradicts func(backend, left netip.AddrPort) bool) error {
	if len(backends) == 0 {
		return nil
	}
	is := spans[struct{}]{}
	for _, b := range backends {
		is[b.Addr] = append(is[b.Addr], span[struct{}]{first: b.First, last: b.Last})
	}
	is.index()
	_, err := d.Table.Delete(fromBackends(proto, backends), func(f conntrack.Flow) bool {
		_, _, ok := is.get(f.Src)
		return ok && f.ReplyDst.Addr() != f.Src.Addr() && contradicts(f.Src, f.ReplyDst)
	})
	return err
}

// fromBackends returns the narrowest filter that flows of all the backends pass.
func fromBackends(proto nat.Proto, backends []portset.Backends) conntrack.Filter {
	one := backends[0]
	f := conntrack.Filter{Proto: uint8(proto), Src: one.Addr, SrcPort: one.First, Dst: anyOf(one.Addr)}
	for _, b := range backends {
		if b.Addr != f.Src {
			f.Src = netip.Addr{}
		}
		if b.First != f.SrcPort || b.Last != f.SrcPort {
			f.SrcPort = 0
		}
		f.Dst = union(f.Dst, anyOf(b.Addr), false)
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
