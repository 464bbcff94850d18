// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Watcher watches links, addresses, routes, routing rules and the settings of interfaces
// (NETCONF) of a namespace over rtnetlink, and neighbours once WatchNeighbours was called.
// E is what the caller makes of messages about links and neighbours.
type Watcher[E any] struct {
	// socket receives what is read: messages about links, addresses and neighbours. hints
	// receives messages of which it only matters that there are some.
	socket, hints *nlwire.Socket
	parse         func(nlwire.Message) (E, bool)
	listening     sync.WaitGroup
	closing       chan struct{}
	// changes holds the changes that were not received yet, if any; mu guards putting them
	// together.
	changes chan Changes[E]
	mu      sync.Mutex
	// neighbours is whether it has subscribed to neighbours and forwarding databases.
	neighbours bool
}

// Changes are what happened since the last time.
type Changes[E any] struct {
	// Host is whether links, addresses, routes, rules or settings have changed. What has
	// changed is to be looked up: it may be different again by the time it is read.
	Host bool
	// Addrs are addresses that went, and may have come back.
	Addrs []netip.Addr
	// Events are what was made of messages, in order.
	Events []E
	// Lost is whether changes are missing, so that everything may have changed.
	Lost bool
}

// maxEvents bounds how many events and addresses are kept until they are received. Beyond it
// all are dropped, and Lost is set.
const maxEvents = 4096

// Sizes of the sockets' buffers in bytes. The one is enough for about as many events. The
// other holds some dozens of messages; under a burst of changes of routes the kernel drops the
// others, which costs nobody anything.
const (
	watchBuffer = 1 << 20
	hintsBuffer = 16 << 10
)

// Pauses after all messages that were there have been read. Under a burst a pass reads many
// of them, where waking for each would cost more than reading.
const (
	watchPause = 10 * time.Millisecond
	hintsPause = 100 * time.Millisecond
)

// group returns the bit of a multicast group of rtnetlink.
func group(n uint) uint32 { return 1 << (n - 1) }

// Watch begins to watch a namespace. parse is called with each message about a link or a
// neighbour, by one goroutine; false: it does not matter.
func Watch[E any](ns *Namespace, parse func(nlwire.Message) (E, bool)) (*Watcher[E], error) {
	return watch(ns, parse, watchBuffer)
}

func watch[E any](ns *Namespace, parse func(nlwire.Message) (E, bool), buffer int) (*Watcher[E], error) {
	s, err := nlwire.Dial(nlwire.Config{
		Protocol: unix.NETLINK_ROUTE, NetNS: ns.FD(), ReceiveBuffer: buffer,
		Groups: group(unix.RTNLGRP_LINK) | group(unix.RTNLGRP_IPV4_IFADDR) | group(unix.RTNLGRP_IPV6_IFADDR),
	})
	if err != nil {
		return nil, fmt.Errorf("watch links and addresses: %w", err)
	}
	hints, err := nlwire.Dial(nlwire.Config{
		Protocol: unix.NETLINK_ROUTE, NetNS: ns.FD(), ReceiveBuffer: hintsBuffer,
		Groups: group(unix.RTNLGRP_IPV4_ROUTE) | group(unix.RTNLGRP_IPV6_ROUTE) |
			group(unix.RTNLGRP_IPV4_RULE) | group(unix.RTNLGRP_IPV6_RULE) |
			group(unix.RTNLGRP_IPV4_NETCONF) | group(unix.RTNLGRP_IPV6_NETCONF),
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch routes and settings: %w", err), s.Close())
	}
	w := &Watcher[E]{socket: s, hints: hints, parse: parse, closing: make(chan struct{}), changes: make(chan Changes[E], 1)}
	w.listening.Go(func() { w.listen(s, watchPause, w.read) })
	w.listening.Go(func() {
		w.listen(hints, hintsPause, func([]byte, bool) Changes[E] { return Changes[E]{Host: true} })
	})
	return w, nil
}

// WatchNeighbours subscribes to neighbours and forwarding databases, once. A host that has
// no use for their events, which can be many, does without.
func (w *Watcher[E]) WatchNeighbours() error {
	if w.neighbours {
		return nil
	}
	err := w.socket.Control(func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.RTNLGRP_NEIGH)
	})
	if err != nil {
		return fmt.Errorf("watch neighbours: %w", err)
	}
	w.neighbours = true
	return nil
}

// Changes receives what has happened. Nothing is received from a nil *Watcher.
func (w *Watcher[E]) Changes() <-chan Changes[E] {
	if w == nil {
		return nil
	}
	return w.changes
}

// Close ends the watch and waits for it. It does nothing to a nil *Watcher.
func (w *Watcher[E]) Close() {
	if w != nil {
		close(w.closing)
		_, _ = w.socket.Close(), w.hints.Close() // nothing is written
		w.listening.Wait()
	}
}

// listen receives until the socket is closed. read reads a datagram, or learns that some were
// lost.
func (w *Watcher[E]) listen(s *nlwire.Socket, pause time.Duration, read func(datagram []byte, lost bool) Changes[E]) {
	buf := make([]byte, nlwire.LargestDatagram)
	for {
		n, err := s.Receive(buf, true)
		for err == nil || errors.Is(err, unix.ENOBUFS) {
			w.add(read(buf[:n], err != nil))
			n, err = s.Receive(buf, false)
		}
		if !errors.Is(err, unix.EAGAIN) {
			return // closed: there is no other error of a socket that only listens
		}
		select {
		case <-w.closing:
			return
		case <-time.After(pause):
		}
	}
}

// read reads the messages of a datagram.
func (w *Watcher[E]) read(datagram []byte, lost bool) (c Changes[E]) {
	c.Lost = lost
	for m := (nlwire.Messages{Data: datagram}); m.Next(); {
		switch m.Type {
		case unix.RTM_NEWLINK, unix.RTM_DELLINK:
			c.Host = true
			fallthrough
		case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
			if ev, ok := w.parse(m.Message); ok {
				c.Events = append(c.Events, ev)
			}
		case unix.RTM_NEWADDR, unix.RTM_DELADDR:
			c.Host = true
			// A new one may have been there: its lifetime is renewed.
			if a, ok := addrOf(m.Message); ok && m.Type == unix.RTM_DELADDR {
				c.Addrs = append(c.Addrs, a)
			}
		default:
			c.Host = true
		}
	}
	return c
}

// addrOf returns the address of a message about one: IFA_LOCAL, or IFA_ADDRESS, which is that
// of the peer if both are there (include/uapi/linux/if_addr.h).
func addrOf(m nlwire.Message) (a netip.Addr, ok bool) {
	for attrs := m.Attrs(unix.SizeofIfAddrmsg); attrs.Next(); {
		if attrs.Type == unix.IFA_LOCAL || attrs.Type == unix.IFA_ADDRESS && !ok {
			a, ok = netip.AddrFromSlice(attrs.Payload)
		}
	}
	return a, ok
}

// add puts changes together with those that were not received yet.
func (w *Watcher[E]) add(c Changes[E]) {
	if len(c.Events) == 0 && !c.Host && !c.Lost { // Host is set with Addrs
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case before := <-w.changes:
		c = Changes[E]{before.Host || c.Host, append(before.Addrs, c.Addrs...), append(before.Events, c.Events...), before.Lost || c.Lost}
	default:
	}
	if len(c.Events)+len(c.Addrs) > maxEvents {
		c.Addrs, c.Events, c.Lost = nil, nil, true
	}
	w.changes <- c
}
