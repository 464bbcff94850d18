// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hairpin

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/internal/nlwire"
)

// watch receives what can move a backend to another port.
type watch struct {
	socket    *nlwire.Socket
	listening sync.WaitGroup
	// changes holds the changes that nobody has received yet, if there are any.
	changes chan Changes
	// joined is whether it has subscribed to neighbours and stations.
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
	link   int          // the interface, or the port behind which a station is
	hooks  Hooks        // of a bridge
	bridge int          // that has seen a station
	addr   netip.Addr   // of a neighbour
	mac    HardwareAddr // of a neighbour or a station
}

type eventKind int

const (
	bridgeChanged    eventKind = iota + 1 // a bridge is new, or was changed
	portChanged                           // a port is new, or was changed
	portLeft                              // a port left its bridge or was deleted (sent for other interfaces too)
	neighbourChanged                      // a link layer address is known
	stationSeen                           // a bridge has seen a station behind a port
)

// maxEvents bounds how many events are kept until somebody reads them. More of them are
// dropped, and everything is looked up again.
const maxEvents = 4096

// watchBuffer is the size of the socket's buffer, for as many events.
const watchBuffer = 1 << 20

// openWatch subscribes to interfaces; join adds the rest.
func openWatch(ns *hostnet.Namespace) (*watch, error) {
	s, err := nlwire.Dial(nlwire.Config{
		Protocol: unix.NETLINK_ROUTE, NetNS: ns.FD(), Groups: 1 << (unix.RTNLGRP_LINK - 1), ReceiveBuffer: watchBuffer,
	})
	if err != nil {
		return nil, fmt.Errorf("watch bridges: %w", err)
	}
	w := &watch{socket: s, changes: make(chan Changes, 1)}
	w.listening.Go(w.listen)
	return w, nil
}

// join subscribes to neighbours and to stations of bridges, once. A host without bridges
// has no use for them, and they can be many.
func (w *watch) join() error {
	if w.joined {
		return nil
	}
	err := w.socket.Control(func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.RTNLGRP_NEIGH)
	})
	if err != nil {
		return fmt.Errorf("watch neighbours: %w", err)
	}
	w.joined = true
	return nil
}

// close ends the watch and waits for it.
func (w *watch) close() {
	_ = w.socket.Close() // nothing is written
	w.listening.Wait()
}

// listen receives until the socket is closed.
func (w *watch) listen() {
	buf := make([]byte, bufferSize)
	for {
		n, err := w.socket.Receive(buf, true)
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
		w.add(events, err != nil)
	}
}

// add is called by listen alone, so that there is room when it has emptied the channel.
func (w *watch) add(events []event, lost bool) {
	if len(events) == 0 && !lost {
		return
	}
	select {
	case c := <-w.changes:
		events, lost = append(c.events, events...), lost || c.lost
	default:
	}
	if len(events) > maxEvents {
		events, lost = nil, true
	}
	w.changes <- Changes{events, lost}
}
