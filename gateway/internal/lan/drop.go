// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lan

import "sync/atomic"

// drop is a reason why something is not passed on.
type drop int

const (
	dropNone        drop = iota
	dropOwn              // it is from this host: that is not counted
	dropDevice           // it arrived on another device
	dropOffLink          // its source is not on link there
	dropDestination      // it was sent to another address
	dropRate             // its source sends too much
	dropFull             // its source has too many connections
	dropReasons
)

// String is the reason in a word or two.
func (d drop) String() string {
	return [dropReasons]string{"", "own", "other device", "off link", "other destination", "rate", "connections"}[d]
}

// drops counts what was dropped.
type drops [dropReasons]atomic.Uint64

func (ds *drops) count(d drop) { ds[d].Add(1) }

func (ds *drops) all() map[string]uint64 {
	all := map[string]uint64{}
	for d := dropOwn + 1; d < dropReasons; d++ {
		if n := ds[d].Load(); n != 0 {
			all[d.String()] = n
		}
	}
	return all
}
