// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"net/netip"

	"github.com/nftnat/nftnat/conntrack"
)

// Table is the table of connection tracking, as *conntrack.Conn.
type Table interface {
	Delete(conntrack.Filter, func(conntrack.Flow) bool) (int, error)
}

// Deleter deletes flows from a table.
type Deleter struct {
	Table Table
	// IsLocal reports whether an address is one of this host. It is asked once for each
	// address and call. A flow for which it fails is kept, and the call returns the
	// first error.
	IsLocal func(netip.Addr) (bool, error)
}

// locals caches the answers of IsLocal during a call.
type locals struct {
	isLocal func(netip.Addr) (bool, error)
	known   map[netip.Addr]bool
	err     error // the first one
}

func (d *Deleter) locals() *locals {
	return &locals{isLocal: d.IsLocal, known: map[netip.Addr]bool{}}
}

// has reports whether an address is local, but not of loopback: traffic over loopback is
// never translated.
func (l *locals) has(a netip.Addr) bool {
	if a.IsLoopback() {
		return false
	}
	is, known := l.known[a]
	if !known {
		var err error
		is, err = l.isLocal(a)
		if err != nil && l.err == nil {
			l.err = err
		}
		is = is && err == nil
		l.known[a] = is
	}
	return is
}
