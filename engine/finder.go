// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"net/netip"

	"github.com/nftnat/nftnat/engine/internal/finder"
	"github.com/nftnat/nftnat/nat"
)

// FinderOptions say where a Finder looks.
type FinderOptions struct {
	// Table is the name of the nftables table. Empty: DefaultTable.
	Table string
	// NetNS is the path of the network namespace. Empty: that of the process.
	NetNS string
}

// Finder finds single mappings in the kernel's table. It looks up one key at a time: what it
// costs does not grow with the mappings. It takes no lock and changes nothing, so that it works
// beside an engine that has the table, and where there is no table. Its methods may be called at
// the same time.
type Finder struct{ found *finder.Finder }

// OpenFinder opens a socket to the kernel. It needs no privilege; the methods of the Finder need
// CAP_NET_ADMIN, else their error is fs.ErrPermission. The error is fs.ErrNotExist if there is no
// such network namespace.
func OpenFinder(opts FinderOptions) (*Finder, error) {
	if opts.Table == "" {
		opts.Table = DefaultTable
	}
	if err := ValidateTableName(opts.Table); err != nil {
		return nil, err
	}
	f, err := finder.Open(opts.Table, opts.NetNS)
	if err != nil {
		return nil, err
	}
	return &Finder{f}, nil
}

// Find returns the mappings that serve what is sent to a frontend, as Engine.Mappings has them,
// each of a single port. An address is served by a mapping of its own, and by those for any
// address; the one for the fewest addresses comes first. A frontend without an address is served by those for any
// address of one family or both. If there is no such mapping, or no table, the result is empty.
//
// Only the clients of a mapping that is limited to some (nat.Mapping.From) are not found by a
// key: the kernel lists those of all mappings of the protocol.
//
// The error is nat.ErrForeign or nat.ErrNewer if the table is not one that this version can read.
func (f *Finder) Find(ctx context.Context, proto nat.Proto, frontend netip.AddrPort) ([]nat.Mapping, error) {
	return f.found.Find(ctx, proto, frontend)
}

// Near returns at most five mappings that were perhaps meant by a frontend that Find does not
// find, the nearest first. It looks at no more than some thousands of elements: in a table with
// more mappings, some on addresses that are not the host's, and some that lead to the frontend,
// may be missing.
func (f *Finder) Near(ctx context.Context, proto nat.Proto, frontend netip.AddrPort) ([]nat.Near, error) {
	return f.found.Near(ctx, proto, frontend)
}

// Close closes the socket.
func (f *Finder) Close() error { return f.found.Close() }
