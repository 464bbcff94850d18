// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Family is a family of tables, by the kernel's number for it (NFPROTO_*).
type Family uint8

// Ruleset is all tables of a network namespace, at one generation.
type Ruleset struct {
	Generation uint32
	// Tables of nftables in the order that the kernel lists them, those of iptables-legacy
	// after them.
	Tables []*Table
}

// Table is a table of nftables or iptables-legacy.
type Table struct {
	Family Family
	Name   string
	// Handle grows with age: a later table has a higher one. Zero for a legacy table.
	Handle uint64
	Flags  uint32 // NFT_TABLE_F_*
	// Owner is the port of the netlink socket that the table belongs to; zero: none.
	Owner   uint32
	Comment string
	// Legacy is set for a table of iptables-legacy or ebtables-legacy: no nft program lists it.
	Legacy bool
	Chains []*Chain // in the order of the kernel
	// Sets are those with a name and the anonymous ones, without their elements.
	Sets map[string]*Set
	// Flowtables are by name.
	Flowtables map[string]*Flowtable
	chains     map[string]*Chain
	reader     *Reader // of elements of anonymous sets
}

// Dormant reports whether the kernel calls none of the table's chains.
func (t *Table) Dormant() bool { return t.Flags&unix.NFT_TABLE_F_DORMANT != 0 }

// Chain returns the chain of that name, or nil.
func (t *Table) Chain(name string) *Chain {
	if t.chains != nil {
		return t.chains[name]
	}
	for _, c := range t.Chains {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// Chain is a chain; one with Base is called by the kernel.
type Chain struct {
	Table   *Table
	Name    string
	Handle  uint64 // unique in its table
	Flags   uint32 // NFT_CHAIN_*
	Comment string
	Base    *Base
	// Rules are those of a legacy table. Others are read by [Reader.Rules].
	Rules []*Rule
	read  bool
}

// Base says when the kernel calls a base chain.
type Base struct {
	Type     string // filter, nat or route
	Hook     uint32 // NF_INET_*, NF_BR_*, NF_NETDEV_* or NF_ARP_*, of the family
	Priority int32
	Policy   int32 // NF_ACCEPT or NF_DROP
	// Devices are names of a hook of interfaces. One that ends in "*" is for all that begin so.
	Devices []string
}

// Rule is a rule of a chain.
type Rule struct {
	Chain   *Chain
	Handle  uint64 // unique in its table
	Index   int    // in its chain, from 0
	Exprs   []Expr
	Comment string
}

// Set is a set or a map. Numbers are NFT_SET_* and nft's types.
type Set struct {
	Table           *Table
	Name            string
	Handle          uint64
	Flags           uint32
	KeyType, KeyLen uint32
	DataType        uint32 // NFT_DATA_VERDICT: a verdict map
	DataLen         uint32
	ObjType         uint32
	FieldLens       []int  // of a key of several fields, in bytes, each is padded to 4 in the key
	Timeout         uint64 // of elements, in milliseconds; zero: none of the set's own
	Size            uint32 // the most elements; zero: not limited
	Policy          uint32 // NFT_SET_POL_*
	GCInterval      uint32
	Exprs           []Expr // of each new element
	UserData        []byte // nft's own notes
}

// Anonymous reports whether the set belongs to one rule.
func (s *Set) Anonymous() bool { return s.Flags&unix.NFT_SET_ANONYMOUS != 0 }

// Element is what a set has for a key.
type Element struct {
	// Key is the lowest key of the element, and End the highest one, of a concatenation with
	// intervals, or nil. With IntervalEnd, the key is the first one behind an interval; such are
	// in lists alone. With CatchAll, the element is for all that no other has.
	Key, End              []byte
	IntervalEnd, CatchAll bool
	// Data is that of a map, and Decision that of a verdict map.
	Data     []byte
	Decision *Decision
	// Object is the name of the object of an object map.
	Object string
	// Conditional is set if expressions of the element, as a limit, decide as well.
	Conditional bool
	Exprs       []Expr
	// Timeout and Expires are in milliseconds; zero: it stays.
	Timeout, Expires uint64
	Comment          string
}

// Flowtable is a table of connections that the kernel forwards by itself.
type Flowtable struct {
	Name     string
	Hook     uint32
	Priority int32
	Devices  []string
	Flags    uint32 // NFT_FLOWTABLE_*
}

// Object is a named object. Value is a Counter, Quota, Limit, ConnLimit, Synproxy, CTHelper,
// CTTimeout, CTExpectation, Secmark, or Unknown.
type Object struct {
	Name   string
	Type   uint32 // NFT_OBJECT_*
	Handle uint64
	Value  Expr
}

// String returns the family as nft(8) names it.
func (f Family) String() string {
	switch f {
	case unix.NFPROTO_INET:
		return "inet"
	case unix.NFPROTO_IPV4:
		return "ip"
	case unix.NFPROTO_ARP:
		return "arp"
	case unix.NFPROTO_NETDEV:
		return "netdev"
	case unix.NFPROTO_BRIDGE:
		return "bridge"
	case unix.NFPROTO_IPV6:
		return "ip6"
	}
	return fmt.Sprintf("family %d", uint8(f))
}
