// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/conntrack"
)

// gapProtocols are those whose flows are looked at after a gap.
func gapProtocols() [4]uint8 {
	return [4]uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6}
}

// deleteGapFlows ends what networks have begun, or let in, while the table was gone. The
// rules judge the first packet of a flow: without that, who came in while there was no
// guard would stay in, and what went out as itself would go on unanswered.
func (e *Engine) deleteGapFlows() error {
	prefixes := e.prefixes()
	if len(prefixes) == 0 {
		return nil
	}
	local := locality{host: e.host, known: map[netip.Addr]bool{}}
	var errs []error
	for _, proto := range gapProtocols() {
		_, err := e.flows.Delete(conntrack.Filter{Proto: proto}, func(f conntrack.Flow) bool {
			return prefixes.unguarded(f, &local) || prefixes.unmasqueraded(f, &local)
		})
		errs = append(errs, err)
	}
	return errors.Join(append(errs, local.err)...)
}

// unguarded reports whether the guard would not have let the flow begin. What the host
// itself sends does not come by it.
func (p networkPrefixes) unguarded(f conntrack.Flow, local *locality) bool {
	to, ok := around(p, f.Dst.Addr())
	if !ok || p[to].NoGuard || f.Status&(conntrack.StatusDNAT|conntrack.StatusExpected) != 0 || to.Contains(f.Src.Addr()) {
		return false
	}
	return !local.is(f.Src.Addr())
}

// unmasqueraded reports whether the flow would have gone out by an address of the
// host's.
func (p networkPrefixes) unmasqueraded(f conntrack.Flow, local *locality) bool {
	from, ok := around(p, f.Src.Addr())
	if !ok || p[from].NoMasquerade || f.ReplyDst.Addr() != f.Src.Addr() || f.ReplySrc != f.Dst {
		return false
	}
	if _, sibling := around(p, f.Dst.Addr()); sibling || f.Dst.Addr().IsMulticast() {
		return false
	}
	return !local.is(f.Dst.Addr()) && !local.is(f.Src.Addr())
}
