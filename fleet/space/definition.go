// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package space

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/nat"
)

const (
	// maxBlockBits bounds the blocks of a network: agents know all that are held.
	maxBlockBits = 14
	// maxName leaves room for the names of blocks in a daemon.
	maxName = 40
	// least bits of the addresses in a block: 8, of which IPv4 leaves 5.
	minAddressBits = 3
	namePrefix     = "space."
)

// Definition is a shared network.
type Definition struct {
	Name   string
	Prefix netip.Prefix
	// Block is the length of the prefix of a block. Zero: 26, or of IPv6 14 more than that of Prefix.
	Block int
	// NoMasquerade and NoGuard are those of [nat.Network], for each block.
	NoMasquerade, NoGuard bool
}

// WithDefaults replaces zero fields.
func (d Definition) WithDefaults() Definition {
	switch {
	case d.Block != 0:
	case d.Prefix.Addr().Is4():
		d.Block = max(26, min(d.Prefix.Bits()+1, 32-minAddressBits))
	default:
		d.Block = min(d.Prefix.Bits()+maxBlockBits, 128-minAddressBits)
	}
	return d
}

// Validate reports whether there can be such a network. The error is a [*nat.InvalidError] that says
// what to do.
func (d Definition) Validate() error {
	bad := func(format string, args ...any) error {
		return &nat.InvalidError{What: "shared network", Input: strings.TrimSpace(d.Name + " " + d.Prefix.String()), Reason: fmt.Sprintf(format, args...)}
	}
	if err := keys.ValidateName("shared network", d.Name); err != nil {
		return err
	}
	if len(d.Name) > maxName {
		return bad("its name has %d bytes, more than %d", len(d.Name), maxName)
	}
	if err := (nat.Network{Name: d.Name, Prefix: d.Prefix}).Validate(); err != nil {
		return err
	}
	d = d.WithDefaults()
	length, most := d.Prefix.Bits(), d.Prefix.Addr().BitLen()-minAddressBits
	switch {
	case length+1 > most:
		return bad("it is too small for two blocks; the smallest is a /%d", most-1)
	case d.Block <= length:
		return bad("a block of /%d is not a part of it: blocks have /%d to /%d", d.Block, length+1, min(most, length+maxBlockBits))
	case d.Block > most:
		return bad("a block of /%d has too few addresses; the smallest is a /%d", d.Block, most)
	case d.Block-length > maxBlockBits:
		return bad("blocks of /%d would be more than %d; the smallest is a /%d", d.Block, 1<<maxBlockBits, length+maxBlockBits)
	}
	return nil
}

// Blocks is how many blocks the network has.
func (d Definition) Blocks() uint64 { return 1 << (d.Block - d.Prefix.Bits()) }

// capacity is how many addresses of a block are leased: neither the first, nor the gateway, nor IPv4's broadcast address.
func (d Definition) capacity() int {
	return 1<<min(20, d.Prefix.Addr().BitLen()-d.Block) - 3
}

// BlockPrefix is the prefix of a block.
func (d Definition) BlockPrefix(index uint64) netip.Prefix {
	raw := d.Prefix.Addr().AsSlice()
	// The index is at most 14 bits, which lie somewhere in three bytes.
	for bit := d.Block - 1; index != 0; bit, index = bit-1, index>>1 {
		raw[bit/8] |= byte(index&1) << (7 - bit%8)
	}
	a, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(a, d.Block)
}

// BlockOf is the index of the block of an address. ok is false if the network does not contain it.
func (d Definition) BlockOf(a netip.Addr) (index uint64, ok bool) {
	if !d.Prefix.Contains(a) {
		return 0, false
	}
	raw := a.AsSlice()
	for bit := d.Prefix.Bits(); bit < d.Block; bit++ {
		index = index<<1 | uint64(raw[bit/8]>>(7-bit%8)&1)
	}
	return index, true
}

// network is a block as a daemon is told of it.
func (d Definition) network(index uint64) nat.Network {
	return nat.Network{
		Name: BlockName(d.Name, index), Prefix: d.BlockPrefix(index),
		NoMasquerade: d.NoMasquerade, NoGuard: d.NoGuard,
	}
}

// BlockName is the name of the daemon's network of a block: space.NET.INDEX.
func BlockName(network string, index uint64) string {
	return namePrefix + network + "." + strconv.FormatUint(index, 10)
}

// ParseBlockName is the inverse of BlockName.
func ParseBlockName(name string) (network string, index uint64, ok bool) {
	rest, ok := strings.CutPrefix(name, namePrefix)
	dot := strings.LastIndexByte(rest, '.')
	if !ok || dot <= 0 {
		return "", 0, false
	}
	index, err := strconv.ParseUint(rest[dot+1:], 10, 64)
	return rest[:dot], index, err == nil && BlockName(rest[:dot], index) == name
}

// String is the value of the definition's key: YAML, without the name.
func (d Definition) String() string {
	s := fmt.Sprintf("{prefix: %q, block: %d", d.Prefix, d.Block)
	if d.NoMasquerade {
		s += ", masquerade: false"
	}
	if d.NoGuard {
		s += ", guard: false"
	}
	return s + "}"
}

// ParseDefinition reads the value of the key of a network.
func ParseDefinition(name, value string) (Definition, error) {
	d := Definition{Name: name}
	bad := func(reason string) error {
		return &nat.InvalidError{What: "shared network", Input: name + " " + value, Reason: reason}
	}
	text, begun := strings.CutPrefix(strings.TrimSpace(value), "{")
	text, ended := strings.CutSuffix(text, "}")
	if !begun || !ended {
		return Definition{}, bad(`it is written {prefix: "PREFIX", block: LENGTH}`)
	}
	for field := range strings.SplitSeq(text, ",") {
		key, text, _ := strings.Cut(field, ":")
		key, text = strings.TrimSpace(key), strings.Trim(strings.TrimSpace(text), `"'`)
		var err error
		var yes bool
		switch key {
		case "prefix":
			d.Prefix, err = netip.ParsePrefix(text)
		case "block":
			d.Block, err = strconv.Atoi(text)
		case "masquerade":
			yes, err = strconv.ParseBool(text)
			d.NoMasquerade = !yes
		case "guard":
			yes, err = strconv.ParseBool(text)
			d.NoGuard = !yes
		default:
			return Definition{}, bad("it has the keys prefix, block, masquerade and guard, and not " + strconv.Quote(key))
		}
		if err != nil {
			return Definition{}, bad("its " + key + " is no such: " + strconv.Quote(text))
		}
	}
	d = d.WithDefaults()
	return d, d.Validate()
}
