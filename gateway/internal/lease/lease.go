// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"net/netip"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// Kind is the protocol by which a lease was asked for.
type Kind uint8

// The kinds.
const (
	PMP Kind = iota + 1 // NAT-PMP (RFC 6886)
	PCP                 // RFC 6887
	IGD                 // UPnP
)

// String returns the word by which names of mappings begin: "pmp".
func (k Kind) String() string {
	switch k {
	case PMP:
		return "pmp"
	case PCP:
		return "pcp"
	case IGD:
		return "igd"
	default:
		return "invalid"
	}
}

// Request asks for a port of the WAN.
type Request struct {
	// Kind says by what it was asked; zero is refused.
	Kind Kind
	// Key is of PCP the nonce, 24 hexadecimal digits in lower case, and of IGD the description,
	// which is cut to what a name can hold. Empty: of PMP, or there is none.
	Key string
	// Client is where the request came from, an IPv4 address: the backend.
	Client netip.Addr
	// Proto is TCP or UDP.
	Proto nat.Proto
	// Internal is the port of the client; zero is refused.
	Internal uint16
	// External is the port that is asked for. Zero: any, first that of Internal.
	External uint16
	// Exact refuses another port than External. Zero: another one is given if that is
	// taken or denied.
	Exact bool
	// Lifetime is made at least Limits.Min and at most Limits.Max. Zero: the lease
	// has no end.
	Lifetime time.Duration
	// From are those who may connect. Empty: anyone.
	From []netip.Prefix
	// AddFrom adds From to that of the lease that is renewed: who may connect to it stays as it is if From is
	// empty. Zero: From takes its place.
	AddFrom bool
	// Text is a description, of PCP only (RFC 7220); what the name has no room for is cut. It
	// counts if SetText is set; otherwise a lease keeps what it has.
	Text    string
	SetText bool
}

// Lease is a port of the WAN that a client has.
type Lease struct {
	// Kind is zero for an operator's mapping that leads to the client's port.
	Kind Kind
	// Key is as in Request; of an operator's mapping it is the name.
	Key      string
	Text     string
	Client   netip.Addr
	Proto    nat.Proto
	Internal uint16
	External uint16
	From     []netip.Prefix // nil: anyone
	// Expires is when it ends. Zero: never.
	Expires time.Time
}

// Remaining is how long the lease lasts from a time on, in seconds, rounded up: what was granted
// just now is said to last as long as it was granted. It is zero if the lease has no end, or has ended.
func (l *Lease) Remaining(now time.Time) time.Duration {
	if l.Expires.IsZero() {
		return 0
	}
	return max(0, (l.Expires.Sub(now) + time.Second - 1).Truncate(time.Second))
}
