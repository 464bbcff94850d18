// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rivals

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

// walk goes through the chains that packets of one base chain pass.
type walk struct {
	*reading
	base  baseChain
	order Order
}

// maxDepth bounds jumps, as the kernel does (NFT_JUMP_STACK_SIZE).
const maxDepth = 16

// maxBoxes bounds the packets of a rule.
const maxBoxes = maxElements

// chain notes what a chain does to packets.
func (w *walk) chain(c *rules.Chain, packets []box, depth int) {
	if w.visits++; c == nil || depth > maxDepth || w.visits > maxVisits {
		return
	}
	for _, r := range w.rulesOf(c) {
		outcomes, err := w.rule(r, packets)
		if err != nil {
			continue // it says nothing
		}
		for _, o := range outcomes {
			switch o.what {
			case translates:
				w.claim(c.Name, o.packets)
			case jumps, goesTo:
				w.chain(c.Table.Chain(o.chain), o.packets, depth+1)
			case ends, goesOn:
			}
			if o.what != jumps && o.what != goesOn {
				packets = without(packets, o.packets)
			}
		}
		if len(packets) == 0 {
			return
		}
	}
}

// claim notes that a rule of a chain translates packets. A rule for all ports is one to note
// only if nothing else restricts it.
func (w *walk) claim(chain string, packets []box) {
	for _, b := range packets {
		if b.isEmpty() || b.some && !b.ported || len(w.found.claims) == maxClaims {
			continue
		}
		w.found.add(Claim{
			Family: w.base.Table.Family.String(), Table: w.base.Table.Name, Chain: chain,
			Hook: w.base.hook, Base: w.base.id, Order: w.order, Some: b.some, box: b,
		})
	}
}

// without returns the packets that are certainly not among those that are gone.
func without(packets, gone []box) []box {
	for _, g := range gone {
		if g.some || g.low.IsValid() {
			continue
		}
		var rest []box
		for _, b := range packets {
			rest = append(rest, b.without(g)...)
		}
		packets = rest
	}
	return packets
}

// outcome is what a rule does to packets.
type outcome struct {
	what    effect
	chain   string // of jumps and goesTo
	packets []box
}

type effect int

const (
	goesOn effect = iota
	translates
	jumps
	goesTo
	ends // the chain, whether the packet is accepted, dropped, or returned
)

// errUnreadable means that a rule has an expression whose meaning is not known here.
var errUnreadable = errors.New("the rule cannot be read")

// rule says what a rule does to packets.
func (w *walk) rule(r *rules.Rule, packets []box) ([]outcome, error) {
	s := state{walk: w, packets: packets}
	for _, e := range r.Exprs {
		if err := s.expression(e); err != nil {
			return nil, err
		}
		if len(s.packets) > maxBoxes {
			return nil, errUnreadable
		}
		if len(s.packets) == 0 || s.done {
			break
		}
	}
	return s.outcomes, nil
}

// decide adds an outcome for packets.
func (s *state) decide(d *rules.Decision, packets []box) error {
	if d == nil {
		return errUnreadable
	}
	o := outcome{packets: packets, chain: d.Chain}
	switch d.Code {
	case unix.NFT_JUMP:
		o.what = jumps
	case unix.NFT_GOTO:
		o.what = goesTo
	case unix.NFT_RETURN, nfDrop, nfAccept:
		o.what = ends
	case unix.NFT_CONTINUE, unix.NFT_BREAK:
		return nil
	default:
		return errUnreadable
	}
	s.outcomes = append(s.outcomes, o)
	return nil
}

const (
	nfDrop   = 0
	nfAccept = 1
)
