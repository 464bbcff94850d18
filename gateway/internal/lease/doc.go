// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package lease grants ports of the WAN to clients of the LAN, for a time, whatever protocol
// they ask by. A lease is a mapping of the daemon that has a time-out, and the name of that
// mapping says what no other field of it does: there is no other record. The index of this
// package is read from the daemon's mappings and follows its events, so that gateway and daemon
// may each be started again at any time.
//
// All methods of [Leases] may be called by several goroutines. What waits for the daemon at the
// same time goes there in one transaction. What can be refused without the daemon is, in constant time.
package lease
