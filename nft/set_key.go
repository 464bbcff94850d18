// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"fmt"
	"net/netip"
)

// isTree reports whether the kernel keeps the elements in a tree, as two each: see interval.go.
func (c *Set) isTree() bool { return c.Interval && len(c.Key) == 1 }

// holds returns the kind of the keys of the map or set, or noKey.
func (c *Set) holds() keyKind {
	t := c.Key
	switch {
	case c.Interval && t.isAddr():
		return prefixKey
	case c.Interval && t.isRange():
		return rangeKey
	case c.Interval && t.isPair():
		return pairKey
	case c.Interval && t.isSegment():
		return segmentKey
	case c.Interval && t.isClients():
		return clientsKey
	case c.Interval:
		return noKey
	case t.isPort():
		return portKey
	case t.isAddr():
		return addrKey
	case t.isAddrPort():
		return addrPortKey
	case t.isInterface():
		return interfaceKey
	case t.isMark():
		return markKey
	case t.isLink():
		return linkKey
	case t.isFamilyService():
		return familyServiceKey
	case t.isService():
		return serviceKey
	case t.isCalled():
		return calledKey
	}
	return noKey
}

func (c *Set) checkKey(k *Key) error {
	ok := k.kind != noKey && k.kind == c.holds()
	switch k.kind { //nolint:exhaustive // the others begin with an address
	case portKey, interfaceKey, markKey, familyServiceKey:
	case segmentKey:
		ok = ok && fits(c.Key[2], k.second.Value().Addr())
	case linkKey:
		ok = ok && fits(c.Key[1], k.linkAddr())
	case serviceKey, calledKey:
		ok = ok && fits(c.Key[1], k.addr())
	case rangeKey:
		ok = ok && c.Key.takesRange(k)
	default:
		ok = ok && fits(c.Key[0], k.addr())
	}
	if !ok {
		return fmt.Errorf("the key is no %s", c.Key)
	}
	return nil
}

// The types of which there are keys and values.

func (d DataType) isAddr() bool { return d == IPv4Addr || d == IPv6Addr }

func (t Type) isPort() bool { return len(t) == 1 && t[0] == InetService }

func (t Type) isAddr() bool { return len(t) == 1 && t[0].isAddr() }

func (t Type) isInterface() bool { return len(t) == 1 && t[0] == IfName }

func (t Type) isMark() bool { return len(t) == 1 && t[0] == Mark }

func (t Type) isAddrPort() bool { return len(t) == 2 && t[0].isAddr() && t[1] == InetService }

func (t Type) isLink() bool { return len(t) == 3 && t[0] == IfName && t[1:].isAddrPort() }

func (t Type) isPair() bool { return len(t) == 2 && t[0].isAddr() && t[0] == t[1] }

func (t Type) isSegment() bool {
	return len(t) == 3 && t[0] == IfName && t[1] == IfName && t[2].isAddr()
}

func (t Type) isFamilyService() bool {
	return len(t) == 3 && t[0] == NfProto && t[1] == InetProto && t[2] == InetService
}

func (t Type) isService() bool { return len(t) == 3 && t[0] == InetProto && t[1:].isAddrPort() }

func (t Type) isCalled() bool { return len(t) == 4 && t[:3].isService() && t[3] == t[1] }

func (t Type) isClients() bool { return len(t) == 3 && t[:2].isAddrPort() && t[2] == t[0] }

// fits reports whether the address is one of the data type.
func fits(d DataType, a netip.Addr) bool {
	return d == IPv4Addr && a.Is4() || d == IPv6Addr && a.Is6() && !a.Is4In6() && a.Zone() == ""
}
