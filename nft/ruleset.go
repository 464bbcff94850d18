// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Table is a table of the inet family without its elements. It prints as nft(8) lists it.
type Table struct {
	// Name is the table's name. It must pass CheckName.
	Name string
	// Comment is that of the table. Empty: none.
	Comment string
	// Flags are TableOwned, TableOwner or none. Zero: everybody with CAP_NET_ADMIN may change it.
	Flags TableFlags
	// Tag is text that the kernel keeps with the table and that nft(8) does not list: a table
	// that it has loaded has none. At most 64 bytes; empty: none. The text form leaves it out.
	Tag string
	// Sets are the maps and sets. They are made, and listed, in this order before the Chains.
	Sets   []Set
	Chains []Chain
}

// Set is a named set, or a named map if it has a Value, without its elements.
type Set struct {
	Name string
	Key  Type
	// Value is the type of what a map holds for a key. Nil: a set.
	Value Type
	// Interval makes every field of the key a range, so that a prefix or a [Range] is one
	// element (nft(8), "flags interval"). Of maps only those of ranges can have it. They should
	// have no Size: the kernel counts both ends of a range, or those that have expired.
	Interval bool
	// Timeout allows elements a time-out (nft(8), "flags timeout").
	Timeout bool
	// Size bounds the number of elements, and makes the kernel allocate the hash table for
	// as many, which halves the time of a bulk load (nft_rhash_init in
	// net/netfilter/nft_set_hash.c). Zero: no bound.
	Size uint32
}

// Chain is a chain with its rules. The zero Hook makes it a regular chain,
// reached by Jump alone.
type Chain struct {
	Name    string
	Comment string
	Hook    Hook
	Rules   []Rule
}

// Hook says where the kernel calls a base chain.
type Hook struct {
	// Type is "nat" or "filter"; empty for a regular chain.
	Type string
	// Point is "prerouting", "output", "postrouting" or "forward".
	Point string
	// Priority orders the base chains of one hook point, the lowest first. The
	// named ones are in include/uapi/linux/netfilter_ipv4.h (enum nf_ip_hook_priorities).
	Priority int32
}

// Priorities of include/uapi/linux/netfilter_ipv4.h by their names in nft(8).
const (
	PriorityRaw    int32 = -300
	PriorityMangle int32 = -150
	PriorityDstNAT int32 = -100
	PriorityFilter int32 = 0
	PrioritySrcNAT int32 = 100
)

// Rule is a list of statements, run in order until one does not match.
type Rule []Stmt

// DataType is the type of one field of a key or a value.
type DataType uint8

// The data types which keys and values are made of.
const (
	InetService DataType = iota + 1
	IPv4Addr
	IPv6Addr
	IfName
	Mark
	NfProto
	InetProto
)

// Type is the type of a key or a value: one field, or several as a concatenation.
type Type []DataType

// dataTypes has the identifiers of enum datatypes in nftables' include/datatype.h, which the
// kernel stores for nft(8), and the sizes.
var dataTypes = [...]struct {
	name string
	id   uint32
	size int
}{
	InetService: {"inet_service", 13, 2},
	IPv4Addr:    {"ipv4_addr", 7, 4},
	IPv6Addr:    {"ipv6_addr", 8, 16},
	IfName:      {"ifname", 41, unix.IFNAMSIZ},
	Mark:        {"mark", 19, 4},
	NfProto:     {"nf_proto", 2, 1},
	InetProto:   {"inet_proto", 12, 1},
}

// String returns the name of the data type in nft(8).
func (d DataType) String() string {
	if d == 0 || int(d) >= len(dataTypes) {
		return "invalid"
	}
	return dataTypes[d].name
}

// String returns the type as nft(8) spells it: "ipv4_addr . inet_service".
func (t Type) String() string {
	names := make([]string, len(t))
	for i, d := range t {
		names[i] = d.String()
	}
	return strings.Join(names, " . ")
}

// typeBits is the width of an identifier in that of a concatenation (TYPE_BITS in nftables'
// include/datatype.h).
const typeBits = 6

func (t Type) id() uint32 {
	var id uint32
	for _, d := range t {
		id = id<<typeBits | dataTypes[d].id
	}
	return id
}

// size is the number of bytes of a key or value: in a concatenation each field fills whole
// 32-bit registers.
func (t Type) size() int {
	if len(t) == 1 {
		return dataTypes[t[0]].size
	}
	n := 0
	for _, d := range t {
		n += padded(dataTypes[d].size)
	}
	return n
}

// padded rounds up to the size of a 32-bit register (NFT_REG32_SIZE).
func padded(n int) int { return (n + 3) &^ 3 }

// Set returns the map or set of a name.
func (t Table) Set(name string) (Set, bool) {
	i := slices.IndexFunc(t.Sets, func(s Set) bool { return s.Name == name })
	if i < 0 {
		return Set{}, false
	}
	return t.Sets[i], true
}

// Chain returns the chain of a name.
func (t Table) Chain(name string) (Chain, bool) {
	i := slices.IndexFunc(t.Chains, func(c Chain) bool { return c.Name == name })
	if i < 0 {
		return Chain{}, false
	}
	return t.Chains[i], true
}

// Kind returns "map" or "set".
func (s Set) Kind() string {
	if s.Value == nil {
		return "set"
	}
	return "map"
}

// TableFlags are flags of a table (enum nft_table_flags in
// include/uapi/linux/netfilter/nf_tables.h).
type TableFlags uint32

const (
	// TableDormant means that none of the table's base chains is called.
	TableDormant TableFlags = 1 << iota
	// TableOwner means that only the Conn that made or claimed the table can change it, until
	// it is closed (Linux 5.12). Others can read it. Without TablePersist the table is deleted
	// with the Conn.
	TableOwner
	// TablePersist means that the table outlives its owner (Linux 6.9), as an orphan that
	// anybody can change or claim.
	TablePersist
)

// TableOwned are the flags of a table that has an owner and outlives it.
const TableOwned = TableOwner | TablePersist

// String returns the flags as nft(8) spells them: "owner,persist".
func (f TableFlags) String() string {
	var words []string
	for i, word := range []string{"dormant", "owner", "persist"} {
		if f&(1<<i) != 0 {
			words = append(words, word)
		}
	}
	return strings.Join(words, ",")
}
