// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"net/netip"
	"strconv"

	"github.com/nftnat/nftnat/nat"
)

// Query is whose packet is to be explained.
type Query struct {
	Proto nat.Proto
	// Frontend is what the client sends to. An invalid address: any of the host's that the
	// client can reach.
	Frontend netip.AddrPort
	// From is the client; invalid: one from elsewhere, behind the default route.
	From netip.Addr
}

// Verdict is what becomes of the packet and its answer.
type Verdict int

// The verdicts.
const (
	Passes       Verdict = iota // the client is answered
	Stopped                     // something stops the packet or its answer
	Uncertain                   // something on the way cannot be known
	NotPublished                // there is no such mapping
)

// String returns the verdict as documents have it: "passes", "stopped", "uncertain" or
// "not-published".
func (v Verdict) String() string {
	switch v {
	case Passes:
		return "passes"
	case Stopped:
		return "stopped"
	case Uncertain:
		return "uncertain"
	case NotPublished:
		return "not-published"
	}
	return "Verdict(" + strconv.Itoa(int(v)) + ")"
}

// ParseVerdict reads what String returns. The error is a [*nat.InvalidError].
func ParseVerdict(s string) (Verdict, error) {
	for v := Passes; v <= NotPublished; v++ {
		if v.String() == s {
			return v, nil
		}
	}
	return 0, &nat.InvalidError{What: "verdict", Input: s, Reason: "this version does not know it"}
}

// Path is how the packet gets to the backend.
type Path string

// The paths.
const (
	ByNetfilter Path = "netfilter"
	ByProxy     Path = "proxy"
	ByBPF       Path = "ebpf"
)

// Report is the answer to a Query.
type Report struct {
	Query   Query
	Verdict Verdict
	Mapping nat.Mapping // zero if not published
	// Client and Frontend are those that were explained: of the query, or typical ones.
	Client   netip.Addr
	Frontend netip.AddrPort
	// Typical says what client was chosen, if the query has none.
	Typical string
	Path    Path // empty if it does not get that far
	// Source is what the backend sees as the client's address; invalid: it sees nothing.
	Source netip.Addr
	// Cause is the first thing that stops the packet, or that cannot be known; nil if it passes.
	Cause *Cause
	// Others are further things that would stop it, or that cannot be known, in the order of the way.
	Others []Cause
	// Notes are worth knowing, and stop nothing.
	Notes []string
	// Steps is the way of the packet and of its answer.
	Steps []Step
	// Near lists mappings that were perhaps meant, if none is published.
	Near []nat.Near
	// Unread says what could not be read, for want of privilege or of a feature of the kernel.
	Unread []string
}

// Cause is a thing that stops a packet.
type Cause struct {
	// Kind is a word for programs: one of the Kind constants.
	Kind string
	// Thing is what it is, as its own tools name it: "table inet corpwall chain passing: policy drop".
	Thing string
	// What says what it does to which packet, in one line.
	What string
	// Remedy is what would correct it, in one line.
	Remedy string
	// Answer is set if it stops the answer and not the packet.
	Answer bool
	// Certain is false if it may stop the packet.
	Certain bool
}

// The kinds of causes.
const (
	KindAddress   = "address"   // of the frontend
	KindBackend   = "backend"   // it is away, does not listen or does not answer
	KindBridge    = "bridge"    // a port of a bridge
	KindDaemon    = "daemon"    // or its socket
	KindKernel    = "kernel"    // a feature that it lacks
	KindWarning   = "warning"   // of the status
	KindClient    = "client"    // this client may not, or cannot, use the frontend
	KindConntrack = "conntrack" // its table is full
	KindIPsec     = "ipsec"     // a policy of it
	KindLink      = "link"      // an interface
	KindMTU       = "mtu"
	KindNeighbour = "neighbour"
	KindPolicy    = "policy" // of a chain
	KindRival     = "rival"  // another table translates it
	KindRoute     = "route"  // a route, or a rule of routing
	KindRule      = "rule"   // of a table
	KindSocket    = "socket"
	KindSysctl    = "sysctl"
	KindTC        = "tc"     // traffic control
	KindTable     = "table"  // of the published ports
	KindUnread    = "unread" // what cannot be read
	KindXDP       = "xdp"
)

// Step is a step of the way.
type Step struct {
	Where  string // "prerouting", "route", "forward", "backend"
	Text   string
	Answer bool
}
