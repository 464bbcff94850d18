// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

type neighbourKey struct {
	addr netip.Addr
	link int
}

// asked is a neighbour that is asked anew.
type asked struct {
	neighbourKey
	state              *Neighbour
	begun              bool // the kernel was made to ask
	confirmed, refused bool // it has answered; it has not
	err                error
}

func (n *asked) by() string {
	if n.addr.Is4() {
		return "ARP"
	}
	return "a neighbour solicitation"
}

// ask has the kernel ask a neighbour anew.
func (b *batchProbe) ask(n *asked) {
	if n.begun {
		return
	}
	n.begun = true
	if n.state, n.err = b.h.Neighbour(n.addr, n.link); n.err != nil {
		return
	}
	s := n.state
	switch {
	case s == nil, s.State&unix.NUD_FAILED != 0, s.State == unix.NUD_NONE:
		n.err = b.setNeighbour(n, unix.NTF_USE, 0) // as a packet would
	case s.State&(unix.NUD_PERMANENT|unix.NUD_NOARP) != 0:
		return // the kernel does not ask
	case s.State&unix.NUD_INCOMPLETE != 0:
		// It asks each second; now it begins anew. Packets that wait go on to wait.
		if n.err = b.setNeighbour(n, 0, unix.NUD_NONE); n.err == nil {
			n.err = b.setNeighbour(n, unix.NTF_USE, 0)
		}
	default:
		if s.State&unix.NUD_PROBE != 0 {
			n.err = b.setNeighbour(n, 0, unix.NUD_STALE) // it begins anew then
		}
		if n.err == nil {
			n.err = b.setNeighbour(n, 0, unix.NUD_PROBE)
		}
	}
	if n.err != nil {
		n.err = b.h.note(fmt.Errorf("ask neighbour %s: %w", n.addr, n.err))
	}
}

// setNeighbour has the kernel use a neighbour, or puts it into a state.
func (b *batchProbe) setNeighbour(n *asked, flags uint8, state uint16) error {
	body := make([]byte, unix.SizeofNdMsg)
	body[0], body[10] = family(n.addr.Is4()), flags
	binary.NativeEndian.PutUint32(body[4:], uint32(n.link))
	binary.NativeEndian.PutUint16(body[8:], state)
	body = nlwire.AppendAttr(body, unix.NDA_DST, n.addr.AsSlice()...)
	if state != 0 {
		body = nlwire.AppendAttr(body, unix.NDA_LLADDR, n.state.MAC...)
	}
	return b.h.ask(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body, nil, func(nlwire.Message) error { return nil })
}

// lookAgain reads the state of a neighbour that was asked.
func (b *batchProbe) lookAgain(n *asked) {
	state, err := b.h.Neighbour(n.addr, n.link)
	if err != nil {
		n.err = err
		return
	}
	n.state = state
	if state != nil {
		n.confirmed = state.State&unix.NUD_REACHABLE != 0
		n.refused = state.State&unix.NUD_FAILED != 0
	}
}
