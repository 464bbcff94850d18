// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"net/netip"

	"github.com/nftnat/nftnat/internal/rules"
)

// matchXT evaluates a match of iptables. The reason says why it cannot be known.
func matchXT(_ *Packet, _ rules.Family, _ uint32, m rules.Match, _ Facts) (answer Answer, reason string) {
	return Maybe, "a match " + m.Name + " that is not read"
}

// effect is what a target of iptables does to a packet that comes to it.
type effect struct {
	kind   effectKind
	reason string // of an effect that is not known
	// Of translations: of the source or else the destination; an address that is invalid and a port of zero stay.
	source bool
	addr   netip.Addr
	port   uint16
	// change is applied to the packet of what goes on, as a mark; nil: none.
	change func(*Packet)
}

type effectKind int

const (
	goesOn effectKind = iota
	accepts
	drops
	rejects
	queues
	returns
	translates // and accepts
	unknown    // it may do anything
)

// targetXT evaluates a target of iptables.
func targetXT(_ *Packet, _ rules.Family, _ uint32, t rules.Target, _ Facts) effect {
	return effect{kind: unknown, reason: "a target " + t.Name + " that is not read"}
}
