// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hairpin

import (
	"net/netip"
)

// Follower follows backends to the ports that they are behind: it is told what can move a
// backend to another port. A nil *Follower does nothing.
type Follower struct {
	c *Controller
	// watchNeighbours subscribes to neighbours and forwarding databases, once.
	watchNeighbours func() error
	// joined is whether that has succeeded.
	joined bool
	// hooks are those of all bridges when FollowRoutes was called last, and onBridges is
	// whether there were backends on bridges. stale is whether a search has met others since,
	// which may be gone again when Poll looks.
	hooks     Hooks
	onBridges bool
	stale     bool
}

// Event is what happened to an interface or to a neighbour. It only says where to look:
// everything may be different by the time that it is read.
type Event struct {
	kind   eventKind
	link   int          // the interface, or the port that an address is behind
	hooks  Hooks        // of a bridge
	bridge int          // that has learned an address
	addr   netip.Addr   // of a neighbour
	mac    HardwareAddr // of a neighbour, or learned by a bridge
}

type eventKind int

const (
	bridgeChanged    eventKind = iota + 1 // a bridge is new, or was changed
	portChanged                           // a port is new, or was changed
	portLeft                              // a port left its bridge or was deleted (sent for other interfaces too)
	neighbourChanged                      // a link layer address is known
	addressLearned                        // a bridge has learned which port an address is behind
)

// Follow begins to follow backends, and rechecks them all. watchNeighbours subscribes to
// events of neighbours and forwarding databases: a host without bridges has no use for
// them. Nil: the controller is closed.
func (c *Controller) Follow(watchNeighbours func() error) *Follower {
	if c.bridges == nil {
		return nil
	}
	c.follower = &Follower{c: c, watchNeighbours: watchNeighbours}
	c.follower.hooksChanged()
	c.recheckAll(c.follower.join)
	return c.follower
}

// Stop tells the controller that backends are not followed any more.
func (f *Follower) Stop() {
	if f != nil {
		f.c.follower = nil
	}
}

func (f *Follower) join() error {
	if f.joined {
		return nil
	}
	err := f.watchNeighbours()
	f.joined = err == nil
	return err
}
