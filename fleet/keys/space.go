// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// Keys of the address space that no network or pool of ports has: they begin with a colon.
const (
	// SpaceClosed is there while no block may be acquired and nothing leased: etcd was restored from an
	// older snapshot, and not all hosts have claimed what they hold.
	SpaceClosed = Spaces + ":closed"
	// SpaceHosts has a key for each host that took part, with the last SpaceClosed for which it
	// has claimed its blocks. No lease.
	SpaceHosts = Spaces + ":host/"
	// SpaceNetworks is put with each network that is created, so that two are not at once.
	SpaceNetworks = Spaces + ":networks"
)

// Space is the key of the definition of a shared network.
func Space(network string) string { return Spaces + network }

// SpaceHost is the key of a host that takes part.
func SpaceHost(host string) string { return SpaceHosts + host }

// PortPool is the pool of ports of a shared address: it stands where a network's name does. It is no
// network's name, since these have no colon.
func PortPool(p nat.Proto, a netip.Addr) string { return p.String() + ":" + a.String() }

// ParsePortPool is the inverse of PortPool.
func ParsePortPool(pool string) (p nat.Proto, a netip.Addr, ok bool) {
	proto, addr, ok := strings.Cut(pool, ":")
	switch {
	case !ok:
		return 0, netip.Addr{}, false
	case proto == nat.TCP.String():
		p = nat.TCP
	case proto == nat.UDP.String():
		p = nat.UDP
	default:
		return 0, netip.Addr{}, false
	}
	a, err := netip.ParseAddr(addr)
	return p, a, err == nil && a.String() == addr
}

// A SpaceKey is a key below [Spaces].
type SpaceKey struct {
	// Pool is the network or the pool of ports. Empty: the key begins with a colon.
	Pool string
	// IsBlock: it is that of block Index. Otherwise it is the network's definition.
	IsBlock bool
	Index   uint64
}

// ParseSpaceKey reads a key below Spaces. ok is false for what is none that this version knows.
func ParseSpaceKey(key string) (k SpaceKey, ok bool) {
	rest, ok := strings.CutPrefix(key, Spaces)
	if !ok {
		return k, false
	}
	if strings.HasPrefix(rest, ":") {
		return k, true
	}
	pool, rest, more := strings.Cut(rest, "/")
	k.Pool = pool
	switch {
	case pool == "":
		return k, false
	case !more:
		return k, true
	}
	digits, ok := strings.CutPrefix(rest, "block/")
	index, err := strconv.ParseUint(digits, 10, 64)
	k.IsBlock, k.Index = true, index
	return k, ok && err == nil && strconv.FormatUint(index, 10) == digits
}

// FreeBlock is the value of a block that was given back. Its revision says when, and it is acquired again after all
// that were given back before.
const FreeBlock = "-"

// HeldBlock is the value of a block that a host holds. By the nonce the host knows its own transaction again.
func HeldBlock(host, nonce string) string { return host + " " + nonce }

// ParseBlock reads the value of a block. host is empty if it is free.
func ParseBlock(value string) (host, nonce string, err error) {
	if value == FreeBlock {
		return "", "", nil
	}
	host, nonce, ok := strings.Cut(value, " ")
	if !ok || ValidateName("host", host) != nil || nonce == "" || strings.Contains(nonce, " ") {
		return "", "", &nat.InvalidError{What: "block", Input: value, Reason: "it is written HOST NONCE, or -"}
	}
	return host, nonce, nil
}
