// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/nat"
)

// Outage deletes the flows that networks began or accepted while the nftables table was
// gone: connections accepted while the guard was missing would stay open, and those that
// left unmasqueraded would never get an answer. networkOf returns the network of an
// address.
func (d Deleter) Outage(networkOf func(netip.Addr) (nat.Network, bool)) error {
	local := d.locals()
	var errs []error
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6} {
		_, err := d.Table.Delete(conntrack.Filter{Proto: proto}, func(f conntrack.Flow) bool {
			from, isFrom := networkOf(f.Src.Addr())
			to, isTo := networkOf(f.Dst.Addr())
			return isTo && passedGuard(f, to, local) || isFrom && !isTo && leftUnmasqueraded(f, from, local)
		})
		errs = append(errs, err)
	}
	return errors.Join(append(errs, local.err)...)
}

// passedGuard reports whether the guard of a network would have stopped a flow to it. What
// the host itself sends does not pass the guard.
func passedGuard(f conntrack.Flow, to nat.Network, local *locals) bool {
	allowed := to.NoGuard || f.Status&(conntrack.StatusDNAT|conntrack.StatusExpected) != 0 || to.Prefix.Contains(f.Src.Addr())
	return !allowed && !local.has(f.Src.Addr())
}

// leftUnmasqueraded reports whether a flow that left a network should have left by an
// address of the host.
func leftUnmasqueraded(f conntrack.Flow, from nat.Network, local *locals) bool {
	translated := f.ReplyDst.Addr() != f.Src.Addr() || f.ReplySrc != f.Dst
	return !from.NoMasquerade && !translated && !f.Dst.Addr().IsMulticast() && !local.has(f.Dst.Addr()) && !local.has(f.Src.Addr())
}
