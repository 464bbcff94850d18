// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package igd

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/nftnat/nftnat/gateway/internal/lan"
)

// The bounds of what is sent in answer to searches. The source of a datagram is easily forged.
const (
	maxFactor  = 3       // times the size of the question
	maxRate    = 4 << 10 // bytes a second to a source
	maxSources = 1024    // that are answered in a second
	maxPending = 1024    // answers that wait for their time
	// firstPause separates the two announcements at start.
	firstPause = 500 * time.Millisecond
	// afterChange is how long after a change of the LAN its devices are announced: changes
	// come in bursts.
	afterChange = time.Second
)

// groups are those of SSDP: on the network, on the link, and in the site.
func groups() []netip.AddrPort {
	return []netip.AddrPort{
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 255, 255, 250}), ssdpPort),
		netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 15: 0x0c}), ssdpPort),
		netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0xff, 1: 0x05, 15: 0x0c}), ssdpPort),
	}
}

// socket is a [lan.Socket].
type socket interface {
	Read(buf []byte) (lan.Packet, error)
	Reply(p lan.Packet, data []byte) error
	Send(device string, to netip.AddrPort, data []byte) error
	Close() error
}

// network is a [lan.LAN].
type network interface {
	Devices() []lan.Device
	Changed() <-chan struct{}
}

// A discovery answers searches and announces the device.
type discovery struct {
	advertiser
	targets []target
	socket  socket
	lan     network

	pending []pending
	sent    map[netip.Addr]int // bytes, in this second
	second  time.Time          // when it began
}

// pending is an answer that waits for its time.
type pending struct {
	at      time.Time
	packet  lan.Packet // without its data
	target  string     // that was searched for
	answers [][]byte
}

// question is a search and where it came from.
type question struct {
	search
	packet lan.Packet
	size   int
}

// run answers until ctx is done, and says goodbye then. It closes the socket.
func (d *discovery) run(ctx context.Context) error {
	questions := make(chan question)
	read := make(chan error, 1)
	done := make(chan struct{})
	go func() { read <- d.read(questions, done) }()
	err := d.loop(ctx, questions, read)
	close(done)
	closed := d.socket.Close()
	if err == nil {
		if err = <-read; errors.Is(err, net.ErrClosed) {
			err = nil
		}
	}
	return errors.Join(err, closed)
}

// read passes searches on until the socket is closed.
func (d *discovery) read(questions chan<- question, done <-chan struct{}) error {
	buf := make([]byte, maxSearch+1)
	for {
		p, err := d.socket.Read(buf)
		if err != nil {
			return err
		}
		q, ok := parseSearch(p.Data)
		if !ok || p.Truncated || q.wait < 0 && p.To.IsMulticast() {
			continue
		}
		size := len(p.Data)
		p.Data = nil
		select {
		case questions <- question{q, p, size}:
		case <-done:
			return nil
		}
	}
}

func (d *discovery) loop(ctx context.Context, questions <-chan question, read <-chan error) error {
	defer d.announce(func(t target, group netip.AddrPort, _ netip.Addr) []byte { return d.byebye(t, group) })
	d.announce(d.alive)
	announce := time.NewTimer(firstPause)
	defer announce.Stop()
	answer := time.NewTimer(time.Hour)
	defer answer.Stop()
	changed, soon := d.lan.Changed(), false
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-read:
			return err
		case q := <-questions:
			d.ask(q, time.Now())
		case <-answer.C:
			d.answerDue(time.Now())
		case <-announce.C:
			d.announce(d.alive)
			soon = false
			// At random, less than half of what an announcement is valid for (UDA 1.1, 1.2.2).
			announce.Reset(maxAge/2 - rand.N(maxAge/10)) //nolint:gosec // no secret
		case <-changed:
			changed = d.lan.Changed()
			if !soon {
				announce.Reset(afterChange)
				soon = true
			}
		}
		answer.Reset(d.untilNext(time.Now()))
	}
}

// ask prepares the answer to a search, for a time within what its sender waits.
func (d *discovery) ask(q question, now time.Time) {
	if len(d.pending) >= maxPending || slices.ContainsFunc(d.pending, func(p pending) bool {
		return p.packet.From == q.packet.From && p.target == q.target
	}) {
		return
	}
	answers := d.answers(q, now)
	if answers == nil {
		return
	}
	wait := time.Duration(0)
	if half := q.wait / 2; half > 0 {
		wait = rand.N(half) //nolint:gosec // no secret
	}
	d.pending = append(d.pending, pending{now.Add(wait), q.packet, q.target, answers})
}

// answers returns those that are within the bounds.
func (d *discovery) answers(q question, now time.Time) (answers [][]byte) {
	if now.Sub(d.second) >= time.Second || d.sent == nil {
		d.sent, d.second = make(map[netip.Addr]int), now
	}
	from := q.packet.From.Addr()
	spent, known := d.sent[from]
	if !known && len(d.sent) >= maxSources {
		return nil
	}
	room := min(maxFactor*q.size, maxRate-spent)
	for _, m := range find(d.targets, q.target) {
		if a := d.answer(m, q.packet.Local, room); a != nil {
			room -= len(a)
			spent += len(a)
			answers = append(answers, a)
		}
	}
	d.sent[from] = spent
	return answers
}

// answerDue sends the answers whose time has come.
func (d *discovery) answerDue(now time.Time) {
	d.pending = slices.DeleteFunc(d.pending, func(p pending) bool {
		if p.at.After(now) {
			return false
		}
		for _, a := range p.answers {
			if d.socket.Reply(p.packet, a) != nil {
				break // who asked asks again
			}
		}
		return true
	})
}

func (d *discovery) untilNext(now time.Time) time.Duration {
	next := time.Hour
	for _, p := range d.pending {
		next = min(next, max(0, p.at.Sub(now)))
	}
	return next
}

// announce sends a message about each target to each group by each device. One that is not
// sent is one that was lost: there will be others.
func (d *discovery) announce(message func(target, netip.AddrPort, netip.Addr) []byte) {
	for _, dev := range d.lan.Devices() {
		for _, group := range groups() {
			local := source(dev, group.Addr())
			if !local.IsValid() {
				continue
			}
			for _, t := range d.targets {
				if d.socket.Send(dev.Name, group, message(t, group, local)) != nil {
					break
				}
			}
		}
	}
}

// source is the device's address for a group, which its members can reach.
func source(dev lan.Device, group netip.Addr) netip.Addr {
	switch {
	case !dev.Up:
		return netip.Addr{}
	case group.Is4():
		return dev.Addr4()
	case group.IsLinkLocalMulticast():
		return dev.Link6()
	}
	for _, p := range dev.Addrs {
		if a := p.Addr(); a.Is6() && !a.IsLinkLocalUnicast() {
			return a
		}
	}
	return netip.Addr{}
}
