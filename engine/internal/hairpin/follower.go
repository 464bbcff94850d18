// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hairpin

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Follower follows backends to the ports that they are behind: it watches what can move
// a backend to another port. A nil *Follower does nothing.
type Follower struct {
	c         *Controller
	socket    *nlwire.Socket
	listening sync.WaitGroup
	// changes holds the changes that were not received yet, if any.
	changes chan Changes
	// joined is whether it has subscribed to neighbours and forwarding databases.
	joined bool
}

// Changes are what happened since the last time.
type Changes struct {
	events []event
	lost   bool // events are missing
}

// event is what happened to an interface or to a neighbour. It only says where to look:
// everything may be different by the time that it is read.
type event struct {
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

// maxEvents bounds how many events are kept until they are received. Beyond it, all are
// dropped, and everything is looked up again.
const maxEvents = 4096

// followerBuffer is the size of the socket's buffer, for as many events.
const followerBuffer = 1 << 20

// Follow begins to follow backends, and rechecks them all. Nil: bridges cannot be watched.
func (c *Controller) Follow() *Follower {
	if c.namespace == nil {
		return nil
	}
	s, err := nlwire.Dial(nlwire.Config{
		Protocol: unix.NETLINK_ROUTE, NetNS: c.namespace.FD(),
		Groups: 1 << (unix.RTNLGRP_LINK - 1), ReceiveBuffer: followerBuffer,
	})
	if err != nil {
		c.log.Warn("bridges are not watched: backends that appear later or move may not reach themselves by their frontends",
			"error", err)
		return nil
	}
	c.follower = newFollower(c, s)
	c.recheckAll(c.follower.join)
	return c.follower
}

func newFollower(c *Controller, s *nlwire.Socket) *Follower {
	f := &Follower{c: c, socket: s, changes: make(chan Changes, 1)}
	f.listening.Go(f.listen)
	return f
}

// Changes receives what Recheck is to be called with.
func (f *Follower) Changes() <-chan Changes {
	if f == nil {
		return nil
	}
	return f.changes
}

// Close ends the watch and waits for it. It is called without the engine's lock; then Stop
// is called with it.
func (f *Follower) Close() {
	if f != nil {
		_ = f.socket.Close() // nothing is written
		f.listening.Wait()
	}
}

// Stop tells the controller that backends are not followed any more.
func (f *Follower) Stop() {
	if f != nil {
		f.c.follower = nil
	}
}

// join subscribes to neighbours and forwarding databases, once. A host without bridges has
// no use for their events, which can be many.
func (f *Follower) join() error {
	if f.joined {
		return nil
	}
	err := f.socket.Control(func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.RTNLGRP_NEIGH)
	})
	if err != nil {
		return fmt.Errorf("watch neighbours: %w", err)
	}
	f.joined = true
	return nil
}

// listen receives until the socket is closed.
func (f *Follower) listen() {
	buf := make([]byte, bufferSize)
	for {
		n, err := f.socket.Receive(buf, true)
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return // closed: there is no other error of a socket that only listens
		}
		var events []event
		m := nlwire.Messages{Data: buf[:n]}
		for m.Next() {
			if ev := parseEvent(m.Message); ev.kind != 0 {
				events = append(events, ev)
			}
		}
		f.add(events, err != nil)
	}
}

// add is called only by listen, so the channel has room after it was emptied.
func (f *Follower) add(events []event, lost bool) {
	if len(events) == 0 && !lost {
		return
	}
	select {
	case c := <-f.changes:
		events, lost = append(c.events, events...), lost || c.lost
	default:
	}
	if len(events) > maxEvents {
		events, lost = nil, true
	}
	f.changes <- Changes{events, lost}
}
