// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

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
	// Legacy is set for a table of iptables-legacy or ebtables-legacy: no nft program lists it.
	Legacy bool
	Chains []*Chain // in the order of the kernel
	// Sets are those with a name and the anonymous ones, without their elements.
	Sets map[string]*Set
}

// Chain returns the chain of that name, or nil.
func (t *Table) Chain(name string) *Chain {
	for _, c := range t.Chains {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// Chain is a chain; one with Base is called by the kernel.
type Chain struct {
	Table  *Table
	Name   string
	Handle uint64 // unique in its table
	Base   *Base
	Rules  []*Rule
}

// Base says when the kernel calls a base chain.
type Base struct {
	Type     string // filter, nat or route
	Hook     uint32 // NF_INET_*, NF_BR_*, NF_NETDEV_* or NF_ARP_*, of the family
	Priority int32
	Policy   int32    // NF_ACCEPT or NF_DROP
	Devices  []string // of a hook of interfaces
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
	Flags           uint32
	KeyType, KeyLen uint32
	DataType        uint32 // NFT_DATA_VERDICT: a verdict map
	DataLen         uint32
	ObjType         uint32
	FieldLens       []int // of a key of several fields, in bytes, each is padded to 4 in the key
}

// Element is what a set has for a key.
type Element struct {
	Data     []byte
	Decision *Decision // of a verdict map
	// Object is the name of the object of an object map.
	Object string
	// Conditional is set if expressions of the element, as a limit, decide as well.
	Conditional bool
}
