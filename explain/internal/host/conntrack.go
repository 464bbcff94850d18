// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import "net/netip"

// Conntrack is the state of connection tracking.
type Conntrack struct {
	// Count is how many entries the namespace has; Max is one limit for each namespace. Zero Max: no
	// limit.
	Count, Max uint64
	// The counters are of the namespace, over all CPUs. Drop counts packets that were dropped because
	// the table was full or memory was short; EarlyDrop entries that were removed to make room.
	Drop, EarlyDrop, InsertFailed, SearchRestart, Invalid, ChainTooLong uint64
}

// Full reports whether a new connection finds no room. Entries that are not assured are removed to
// make some: it may find room all the same.
func (c *Conntrack) Full() bool { return c.Max != 0 && c.Count >= c.Max }

// Conntrack reads the state of connection tracking. nil: there is none in the kernel.
func (h *Host) Conntrack() (*Conntrack, error) { return nil, errTODO }

// Entry is an entry of connection tracking.
type Entry struct {
	Status uint32 // IPS_*
	// State is that of TCP, as conntrack(8) prints it: "SYN_SENT". Empty: not TCP.
	State    string
	Timeout  uint32 // seconds
	Mark     uint32
	Original Tuple
	Reply    Tuple
}

// Tuple is one direction of a connection.
type Tuple struct {
	Proto            uint8
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
}

// String returns the entry about as conntrack(8) prints it.
func (e *Entry) String() string { return "" }

// Entry returns the entry with that original tuple in zone 0; nil: there is none.
func (h *Host) Entry(t Tuple) (*Entry, error) { return nil, errTODO }

// Counter reads a counter of /proc/net/netstat, snmp or snmp6: "TcpExt", "IPReversePathFilter";
// "Ip6", "InAddrErrors". The error is fs.ErrNotExist if the kernel does not have it.
func (h *Host) Counter(group, name string) (uint64, error) { return 0, errTODO }
