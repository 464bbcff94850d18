// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"errors"
	"net/netip"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// Departed deletes the flows of published ports, TCP and UDP, that clients began to addresses
// that are gone from this host: their packets would go on to the backend if the address came
// back, or leave with an address that another host has now.
func (d Deleter) Departed(published *portset.Set, gone func(netip.Addr) bool) error {
	if published.Len() == 0 {
		return nil
	}
	var errs []error
	for _, proto := range []nat.Proto{nat.TCP, nat.UDP} {
		_, err := d.Table.Delete(conntrack.Filter{Proto: uint8(proto), Translated: true}, func(f conntrack.Flow) bool {
			return gone(f.Dst.Addr()) && leadsToBackend(proto, f, published)
		})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// leadsToBackend reports whether a flow leads to the backend of the port that it was sent to.
func leadsToBackend(proto nat.Proto, f conntrack.Flow, published *portset.Set) bool {
	own := portset.Frontend{Proto: proto, AddrPort: f.Dst}
	any := portset.Frontend{Proto: proto, AddrPort: netip.AddrPortFrom(netip.Addr{}, f.Dst.Port())}
	for _, frontend := range []portset.Frontend{own, any.OfFamily(f.Dst.Addr()), any} {
		if t, ok := published.Get(frontend); ok {
			return t.Backend == f.ReplySrc
		}
	}
	return false
}
