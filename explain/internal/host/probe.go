// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"net/netip"
	"time"
)

// ProbeAnswer is what a backend does when it is asked.
type ProbeAnswer int

// The answers.
const (
	Unasked     ProbeAnswer = iota // it was not asked; Text says why
	Answers                        // its port is open
	Refused                        // its port is closed
	Unreachable                    // an ICMP error came
	Silent                         // nothing came, and the neighbour is there or not known
	NoNeighbour                    // the neighbour does not answer
)

// ProbeResult is what a probe has found.
type ProbeResult struct {
	Answer ProbeAnswer
	// By says how it was found out: "a SYN", "the sockets of its namespace".
	By string
	// Text is the error or reason in some words.
	Text string
	// Neighbour is the entry that the packets need, as it was afterwards; nil: none.
	Neighbour *Neighbour
	// Source is the address from which it was asked.
	Source netip.Addr
	Took   time.Duration
}

// Probe asks whether something listens on a backend's port.
//
// TCP is asked by a SYN from the host. Its answer is not acknowledged: the program does not learn
// of it, and the host ends the half-open connection with a RST when the answer comes again.
// UDP is not asked, since a datagram may do harm: the sockets of the backend are looked at if its namespace is on this
// machine and can be opened, else its neighbour alone is asked.
func (h *Host) Probe(ctx context.Context, proto uint8, backend netip.AddrPort, timeout time.Duration) ProbeResult {
	return ProbeResult{}
}

// Peer opens the namespace of a backend, if it is on this machine: that of the other end of the link, or of the
// bridge's port, by which its neighbour is known. nil: it is not, or it cannot be found. Close it.
func (h *Host) Peer(backend netip.Addr) (*Host, error) { return nil, errTODO }
