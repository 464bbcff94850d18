// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
)

// bridgeWatch hears of what can move a backend to another port.
type bridgeWatch struct {
	socket *nl.NetlinkSocket
	// heard is for there being something to take.
	heard     chan struct{}
	listening sync.WaitGroup

	mu     sync.Mutex
	events []bridgeEvent
	// lost is whether events are missing.
	lost bool
}

// bridgeEvent is what has happened to an interface or to a neighbour. It says where to
// look: by the time that it is heard, all may be different.
type bridgeEvent struct {
	kind bridgeEventKind
	link int // the interface, or the port behind which a station is
	// hooks of a bridge.
	hooks hooks
	// bridge that has seen a station.
	bridge int
	addr   netip.Addr // of a neighbour
	mac    hardwareAddr
}

type bridgeEventKind int

const (
	bridgeChanged    bridgeEventKind = iota + 1 // or is new
	portChanged                                 // is new, or another interface is
	portLeft                                    // its bridge, or has gone, or another interface has
	neighbourChanged                            // its link layer address is known
	stationSeen
)

// maxBridgeEvents bounds what is kept for whoever does not take it. More of them are
// lost, and everything is looked at anew.
const maxBridgeEvents = 4096

// watchBuffer is room for as many events while nobody reads.
const watchBuffer = 1 << 20

// watchBridges subscribes to interfaces; join adds the rest.
func watchBridges(ns *hostnet.Namespace) (*bridgeWatch, error) {
	socket, err := nl.SubscribeAt(ns.Handle(), netns.None(), unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return nil, fmt.Errorf("watch bridges: %w", err)
	}
	if err := socket.SetReceiveBufferSize(watchBuffer, true); err != nil {
		socket.Close()
		return nil, fmt.Errorf("watch bridges: %w", err)
	}
	w := &bridgeWatch{socket: socket, heard: make(chan struct{}, 1)}
	w.listening.Go(w.listen)
	return w, nil
}

// join subscribes to neighbours and to stations of bridges. On a host without bridges
// there is no use for them, and they can be many.
func (w *bridgeWatch) join() error {
	err := unix.SetsockoptInt(w.socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.RTNLGRP_NEIGH)
	if err != nil {
		return fmt.Errorf("watch neighbours: %w", err)
	}
	return nil
}

// close ends the watch and waits for it.
func (w *bridgeWatch) close() {
	w.socket.Close()
	w.listening.Wait()
}

// listen receives until the socket is closed.
func (w *bridgeWatch) listen() {
	for {
		messages, from, err := w.socket.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			w.put(nil, true)
		case err != nil:
			return // closed; there is no other error of a socket that only listens
		case from.Pid == nl.PidKernel:
			w.put(parseBridgeEvents(messages), false)
		}
	}
}

func (w *bridgeWatch) put(events []bridgeEvent, lost bool) {
	if len(events) == 0 && !lost {
		return
	}
	w.mu.Lock()
	w.events = append(w.events, events...)
	w.lost = w.lost || lost
	if len(w.events) > maxBridgeEvents {
		w.events, w.lost = nil, true
	}
	w.mu.Unlock()
	select {
	case w.heard <- struct{}{}:
	default: // it is known already that there is something
	}
}

// take is what was heard since the last time.
func (w *bridgeWatch) take() (events []bridgeEvent, lost bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	events, lost = w.events, w.lost
	w.events, w.lost = nil, false
	return events, lost
}

// parseBridgeEvents leaves out what cannot matter.
func parseBridgeEvents(messages []syscall.NetlinkMessage) []bridgeEvent {
	var events []bridgeEvent
	for _, m := range messages {
		if e, ok := parseBridgeEvent(m); ok {
			events = append(events, e)
		}
	}
	return events
}

func parseBridgeEvent(m syscall.NetlinkMessage) (bridgeEvent, bool) {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		l, ok := parseBridgeLink(m.Data)
		switch {
		case !ok:
		case l.kind == kindBridge:
			return bridgeEvent{kind: bridgeChanged, link: l.index, hooks: l.hooks}, true
		case m.Header.Type == unix.RTM_DELLINK: // also of family AF_BRIDGE (br_del_if in net/bridge/br_if.c)
			return bridgeEvent{kind: portLeft, link: l.index}, true
		case l.bridge != 0:
			return bridgeEvent{kind: portChanged, link: l.index}, true
		}
	case unix.RTM_NEWNEIGH:
		n, ok := parseNeighbour(m.Data)
		switch {
		case !ok, !n.hasMAC:
		case n.station(n.master):
			return bridgeEvent{kind: stationSeen, link: n.link, bridge: n.master, mac: n.mac}, true
		case n.addr.IsValid():
			return bridgeEvent{kind: neighbourChanged, link: n.link, addr: n.addr, mac: n.mac}, true
		}
	}
	return bridgeEvent{}, false
}
