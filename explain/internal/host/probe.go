// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// ProbeAnswer is what a backend does when it is asked.
type ProbeAnswer int

// The answers.
const (
	Unasked     ProbeAnswer = iota // it was not asked; Text says why
	Answers                        // its port is open
	Refused                        // its port is closed
	Unreachable                    // it cannot be sent to, or an ICMP error came
	Silent                         // nothing came, and the neighbour is there or not known
	NoNeighbour                    // the neighbour does not answer
)

// String returns the answer in a word.
func (a ProbeAnswer) String() string {
	names := [...]string{
		Unasked: "unasked", Answers: "answers", Refused: "refused", Unreachable: "unreachable", Silent: "silent", NoNeighbour: "no neighbour",
	}
	if a < 0 || int(a) >= len(names) {
		return "invalid"
	}
	return names[a]
}

// ProbeResult is what a probe has found.
type ProbeResult struct {
	Answer ProbeAnswer
	// By says how it was found out: "a SYN", "the sockets of its namespace".
	By string
	// Text is the error or reason in some words.
	Text string
	// Neighbour is the entry that the packets need, as it was afterwards; nil: none.
	Neighbour *Neighbour
	// Confirmed is set if the neighbour has answered now.
	Confirmed bool
	// Source is the address from which it was asked; invalid: it was not asked by a packet.
	Source netip.Addr
	// Listener is the socket that takes the packets, if it could be seen; nil: not known, or none.
	Listener *Socket
	Took     time.Duration
}

// Backend is what a probe asks: a port of TCP or UDP.
type Backend struct {
	Proto uint8
	Addr  netip.AddrPort
}

// How long a probe waits if nothing else is said, before it asks the neighbour, and between two looks;
// and how many backends it asks at a time.
const (
	defaultProbe = 300 * time.Millisecond
	quiet        = 40 * time.Millisecond
	tick         = time.Millisecond
	batchSize    = 256
)

// Probe asks whether something listens on a backend's port, and returns as soon as that is known, at
// the latest after the time-out. Zero: defaultProbe.
//
// TCP is asked by a SYN from the host, with the source that the route chooses. Its answer is not
// acknowledged: a filter of the socket drops it. So the program that listens does not learn of the
// connection, which it would if it was established and closed, and the host ends the half-open one
// with a RST when the answer comes again a second later.
//
// UDP is not asked, since any datagram to an open port reaches the program and may do harm. If the
// backend's namespace is on this machine and can be opened, its sockets are looked at. Else only
// the neighbour is asked.
//
// A neighbour is asked by the kernel, which sends ARP or a neighbour solicitation: the answer to an
// earlier question may be older than the backend's end. Entries that are permanent are not touched.
func (h *Host) Probe(ctx context.Context, proto uint8, backend netip.AddrPort, timeout time.Duration) ProbeResult {
	return h.ProbeAll(ctx, []Backend{{proto, backend}}, timeout)[0]
}

// ProbeAll probes many at the same time. The results are in the order of the backends.
func (h *Host) ProbeAll(ctx context.Context, backends []Backend, timeout time.Duration) []ProbeResult {
	if timeout <= 0 {
		timeout = defaultProbe
	}
	results := make([]ProbeResult, len(backends))
	for first := 0; first < len(backends); first += batchSize {
		last := min(first+batchSize, len(backends))
		b := &batchProbe{h: h, begin: time.Now(), neighbours: map[neighbourKey]*asked{}}
		for i := first; i < last; i++ {
			b.probes = append(b.probes, &probe{Backend: backends[i], result: &results[i], fd: -1})
		}
		b.run(ctx, timeout)
	}
	return results
}

// probe is a backend that is being asked.
type probe struct {
	Backend
	result *ProbeResult
	done   bool
	fd     int // of the socket that sends a SYN; -1: none
	// neighbour is whom the packets go to by the link; nil: nobody in particular.
	neighbour *asked
	unasked   string // why UDP is not asked, if nothing else is found out
}

type batchProbe struct {
	h          *Host
	begin      time.Time
	probes     []*probe
	neighbours map[neighbourKey]*asked
}

func (b *batchProbe) run(ctx context.Context, timeout time.Duration) {
	defer func() {
		for _, p := range b.probes {
			if p.fd >= 0 {
				_ = unix.Close(p.fd) // nothing is written
			}
			b.finish(p)
		}
	}()
	for _, p := range b.probes {
		b.prepare(p)
	}
	if err := b.h.do(func() error { b.connect(); return nil }); err != nil {
		for _, p := range b.probes {
			p.end(Unasked, "", b.h.note(err).Error())
		}
	}
	for ctx.Err() == nil && time.Since(b.begin) < timeout && b.step() {
	}
}

func (p *probe) end(a ProbeAnswer, by, text string) {
	if !p.done {
		p.done = true
		p.result.Answer, p.result.By, p.result.Text = a, by, text
	}
}

// prepare looks up the route, and what can be known without a packet.
func (b *batchProbe) prepare(p *probe) {
	to := p.Addr.Addr().Unmap()
	route, fault, err := b.h.Lookup(RouteQuery{Dst: to, Proto: p.Proto, DstPort: p.Addr.Port()})
	switch {
	case err != nil:
		p.end(Unasked, "", err.Error())
		return
	case fault != nil:
		p.end(Unreachable, "a route", fault.Thing)
		return
	case route.Type == unix.RTN_LOCAL:
		b.lookForSocket(p, b.h, "the sockets of the host", 0)
		return
	case route.Type != unix.RTN_UNICAST:
		p.end(Unasked, "", "the route is "+route.Text)
		return
	}
	l, err := b.h.Link(route.Oif)
	if err == nil && l.Flags&(unix.IFF_NOARP|unix.IFF_LOOPBACK) == 0 {
		key := neighbourKey{to.WithZone(""), route.Oif}
		if route.Gateway.IsValid() {
			key.addr = route.Gateway
		}
		if b.neighbours[key] == nil {
			b.neighbours[key] = &asked{neighbourKey: key}
		}
		p.neighbour = b.neighbours[key]
	}
	if p.Proto == unix.IPPROTO_TCP {
		return
	}
	if p.neighbour != nil {
		b.ask(p.neighbour)
	}
	p.unasked = "a datagram may do harm, and its sockets cannot be seen"
}

// lookForSocket looks for the socket that takes packets to a backend in its namespace.
func (b *batchProbe) lookForSocket(p *probe, in *Host, by string, iif int) {
	s, err := in.Listener(p.Proto, p.Addr, iif)
	p.result.Listener = s
	switch {
	case err != nil:
		p.end(Unasked, "", err.Error())
	case s == nil:
		p.end(Refused, by, "no socket takes packets to "+p.Addr.String())
	case s.Full():
		p.end(Silent, by, s.String()+": its queue of connections is full")
	default:
		p.end(Answers, by, s.String())
	}
}

// step waits a moment and looks at all that is open. It returns false if nothing is.
func (b *batchProbe) step() (open bool) {
	late := time.Since(b.begin) > quiet
	var fds []unix.PollFd
	for _, p := range b.probes {
		if p.done {
			continue
		}
		if p.fd >= 0 {
			fds = append(fds, unix.PollFd{Fd: int32(p.fd), Events: unix.POLLOUT})
			if late && p.neighbour != nil {
				b.ask(p.neighbour)
			}
		}
	}
	timeout := unix.NsecToTimespec(int64(tick))
	// An error, as of a signal, only ends the wait.
	_, _ = unix.Ppoll(fds, &timeout, nil)
	for _, n := range b.neighbours {
		if n.begun && !n.confirmed && !n.refused && n.err == nil {
			b.lookAgain(n)
		}
	}
	for _, p := range b.probes {
		if !p.done {
			b.lookAt(p)
		}
		open = open || !p.done
	}
	return open
}

// lookAt ends a probe that has an answer.
func (b *batchProbe) lookAt(p *probe) {
	n := p.neighbour
	if p.fd < 0 { // of UDP
		switch {
		case n == nil:
			b.askUDP(p)
		case n.refused:
			p.end(NoNeighbour, n.by(), b.h.neighbourText(n.state))
		case n.confirmed || n.err != nil || n.state != nil && n.state.Permanent():
			b.askUDP(p)
		}
		return
	}
	if drops(p.fd) > 0 {
		p.end(Answers, "a SYN", "")
		return
	}
	code, err := unix.GetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	switch {
	case err != nil:
		p.end(Unasked, "", err.Error())
	case code != 0:
		if n != nil && unix.Errno(code) == unix.EHOSTUNREACH {
			b.lookAgain(n)
		}
		p.failed(unix.Errno(code))
	case n != nil && n.refused:
		p.end(NoNeighbour, n.by(), b.h.neighbourText(n.state))
	default:
		if _, err := unix.Getpeername(p.fd); err == nil { // the filter did not see the answer
			p.end(Answers, "a SYN", "")
		}
	}
}

// askUDP ends a probe of UDP whose neighbour is there or not known.
func (b *batchProbe) askUDP(p *probe) {
	peer, iif, err := b.h.peer(p.Addr.Addr())
	if peer == nil {
		if err != nil {
			p.unasked += ": " + err.Error()
		}
		p.end(Unasked, "", p.unasked)
		return
	}
	b.lookForSocket(p, peer, "the sockets of its namespace", iif)
	_ = peer.Close() // it was only read
}

// finish completes a result when the time is over.
func (b *batchProbe) finish(p *probe) {
	n := p.neighbour
	if n != nil {
		if !n.confirmed && !n.refused && n.err == nil {
			b.lookAgain(n)
		}
		p.result.Neighbour, p.result.Confirmed = n.state, n.confirmed && n.begun
	}
	switch {
	case p.done:
	case n != nil && n.err == nil && n.state != nil && (n.state.Dead() || n.begun && n.state.State&unix.NUD_PROBE != 0):
		p.end(NoNeighbour, n.by(), n.state.Text)
	case p.fd >= 0:
		p.end(Silent, "a SYN", "nothing came within "+time.Since(b.begin).Round(time.Millisecond).String())
	default:
		b.askUDP(p)
	}
	if p.fd >= 0 {
		p.result.Source = b.source(p)
	}
	p.result.Took = time.Since(b.begin)
}

// source returns the address that the SYN went from.
func (b *batchProbe) source(p *probe) netip.Addr {
	route, _, err := b.h.Lookup(RouteQuery{Dst: p.Addr.Addr(), Proto: p.Proto, DstPort: p.Addr.Port()})
	if err != nil || route == nil {
		return netip.Addr{}
	}
	return route.PrefSrc
}
