// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf"
	"github.com/nftnat/nftnat/internal/nlwire"
	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/internal/rules/xt"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/trace/internal/marking"
)

// Options say what is traced.
type Options struct {
	// NetNS is an open file descriptor of the network namespace. Zero: that of the calling thread.
	NetNS int
	// Frontends are what packets are asked for, of which only the protocol, the frontend and More count. Empty: what
	// Published returns.
	Frontends []nat.Mapping
	// From is the client. Invalid: any.
	From netip.Addr
	// Published lists what is published: all, or at the Frontends, if there are any. It is called again when the rules have
	// changed, at most once a second. Nil: nothing is.
	Published func(context.Context) ([]nat.Mapping, error)
	// Leads reports whether eBPF leads sockets on localhost straight to the backends, so that no packet of theirs goes to a frontend.
	// It is called after Published. Nil: it does not.
	Leads func(context.Context) bool
	// NoBPF leaves eBPF out.
	NoBPF bool
}

// Tracer shows what becomes of packets. Its methods are for one goroutine, but for Close.
type Tracer struct {
	opts   Options
	table  *marking.Table
	events *nlwire.Socket // of nftrace
	links  *nlwire.Socket // notifications of interfaces and addresses
	host   *host
	names  *names
	// published is the generation at which Published was called.
	published uint32
	leftOut   uint64
	lost      int  // how often events had no room, and it was not said
	notedLed  bool // it was said that sockets are led
	packets   *packets
	notes     []string
	drops     *bpf.Drops // nil: without
	watched   map[uint16]uint32
}

// The groups of nftrace and of rtnetlink, as bind(2) takes them.
const (
	traceGroup = 1 << (unix.NFNLGRP_NFTRACE - 1)
	hostGroups = 1<<(unix.RTNLGRP_LINK-1) | 1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1)
)

// eventBuffer is the receive buffer for events: for some ten thousand.
const eventBuffer = 8 << 20

// Open begins to mark packets. Without CAP_NET_ADMIN the error is fs.ErrPermission.
func Open(ctx context.Context, o Options) (_ *Tracer, err error) {
	o.From = o.From.Unmap()
	t := &Tracer{opts: o}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	if t.host, err = openHost(o.NetNS); err != nil {
		return nil, err
	}
	// First the table: it needs the privilege, and its error says so.
	if t.table, err = marking.Open(o.NetNS, o.From); err != nil {
		return nil, err
	}
	if t.events, err = nlwire.Dial(nlwire.Config{Protocol: unix.NETLINK_NETFILTER, NetNS: o.NetNS, Groups: traceGroup, ReceiveBuffer: eventBuffer}); err != nil {
		return nil, fmt.Errorf("open netlink socket for nftrace: %w", err)
	}
	if t.links, err = nlwire.Dial(nlwire.Config{Protocol: unix.NETLINK_ROUTE, NetNS: o.NetNS, Groups: hostGroups}); err != nil {
		return nil, fmt.Errorf("open netlink socket for interfaces: %w", err)
	}
	reader, err := rules.Open(o.NetNS)
	if err != nil {
		return nil, err
	}
	t.names = &names{reader: reader, printer: rules.Printer{Link: func(i uint32) string { return t.host.link(int(i)) }, XT: xt.Printer{}}}
	t.names.refresh(ctx)
	t.packets = newPackets(t, t.table.Name(), o.From)
	if err := t.openDrops(); err != nil {
		return nil, err
	}
	if err := t.followHost(); err != nil {
		return nil, err
	}
	if err := t.followPublished(ctx); err != nil {
		return nil, err
	}
	t.prepareNotes()
	return t, nil
}

// Close ends the marking. Nothing is left.
func (t *Tracer) Close() error {
	var errs []error
	for _, s := range []*nlwire.Socket{t.events, t.links} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	if t.table != nil {
		errs = append(errs, t.table.Close())
	}
	if t.drops != nil {
		errs = append(errs, t.drops.Close())
	}
	if t.names != nil {
		errs = append(errs, t.names.reader.Close())
	}
	if t.host != nil {
		t.host.close()
	}
	return errors.Join(errs...)
}

// followHost marks packets by the interfaces and addresses that the host has.
func (t *Tracer) followHost() error {
	_, firsts, others, err := t.host.links()
	if err != nil {
		return err
	}
	local, err := t.host.local()
	if err != nil {
		return err
	}
	if err := t.table.SetLocal(local); err != nil {
		return err
	}
	t.packets.local = local
	err = t.table.Hook(firsts, others)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV):
		return nil // an interface has just gone, of which there is a notification
	case errors.Is(err, unix.EOPNOTSUPP):
		if t.packets.notify == nil {
			t.notes = append(t.notes, "this kernel has no ingress hook of tables: chains of netdev are not seen")
		}
		return nil
	}
	return err
}

// followPublished asks for packets to what is published now, or to what was given.
func (t *Tracer) followPublished(ctx context.Context) error {
	var published []nat.Mapping
	if t.opts.Published != nil {
		t.published = t.names.generation()
		var err error
		published, err = t.opts.Published(ctx)
		if err != nil && len(t.opts.Frontends) == 0 {
			return err
		}
	}
	ms := t.opts.Frontends
	if len(ms) == 0 {
		ms = published
	}
	var targets []marking.Target
	ports := map[uint16]uint32{}
	for _, m := range ms {
		proto := protocolOf(m)
		for i := range int(m.More) + 1 {
			port := m.Frontend.Port() + uint16(i)
			addr := m.Frontend.Addr()
			if addr.IsValid() && !addr.IsUnspecified() {
				targets = append(targets, marking.Target{Proto: proto, Addr: addr, Port: port})
				continue
			}
			if !addr.Is6() {
				targets = append(targets, marking.Target{Proto: proto, Port: port})
			}
			if !addr.Is4() {
				targets = append(targets, marking.Target{Proto: proto, Port: port, V6: true})
			}
		}
	}
	led := ledTargets(t.opts.Frontends, published)
	if len(led) != 0 && t.opts.Leads != nil && marking.MayBeLed(t.opts.From) && t.opts.Leads(ctx) {
		targets = append(targets, led...)
		if err := t.noteLed(); err != nil {
			return err
		}
	}
	for _, g := range targets {
		ports[g.Port] |= protocolBit(g.Proto)
	}
	if err := t.watch(ports); err != nil {
		return err
	}
	switch {
	case t.packets.notify != nil, len(published) != 0: // it runs
	case len(t.opts.Frontends) != 0:
		t.notes = append(t.notes, "it is not published")
	default:
		t.notes = append(t.notes, "nothing is published")
	}
	t.packets.setTargets(targets)
	return t.table.SetTargets(targets)
}

func protocolOf(m nat.Mapping) byte {
	if m.Proto == nat.UDP {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

// ledTargets are the backends that sockets on localhost may be led to which ask for one of the frontends; none: for any.
func ledTargets(asked, published []nat.Mapping) (targets []marking.Target) {
	onLocalhost := func(a netip.Addr) bool { return !a.IsValid() || a.IsUnspecified() || a.IsLoopback() }
	add := func(m *nat.Mapping, first, last int) {
		for i := first - int(m.Frontend.Port()); i <= last-int(m.Frontend.Port()); i++ {
			targets = append(targets, marking.Target{Proto: protocolOf(*m), Addr: m.Backend.Addr(), Port: m.Backend.Port() + uint16(i), FromHost: true})
		}
	}
	lastOf := func(m *nat.Mapping) int { return int(m.Frontend.Port()) + int(m.More) }
	for _, m := range published {
		if m.NoProxy || m.ProxyOnly || !onLocalhost(m.Frontend.Addr()) {
			continue
		}
		if len(asked) == 0 {
			add(&m, int(m.Frontend.Port()), lastOf(&m))
		}
		for _, f := range asked {
			if f.Proto == m.Proto && onLocalhost(f.Frontend.Addr()) {
				add(&m, int(max(m.Frontend.Port(), f.Frontend.Port())), min(lastOf(&m), lastOf(&f)))
			}
		}
	}
	return targets
}

// noteLed says once what is seen of sockets that are led.
func (t *Tracer) noteLed() error {
	if t.notedLed {
		return nil
	}
	t.notedLed = true
	const text = "eBPF leads clients on localhost straight to the backend: what is shown of them is what this host sends to the backend, whoever of it does"
	if t.packets.notify != nil {
		return t.note(text)
	}
	t.notes = append(t.notes, text)
	return nil
}

// input is what one of the sockets has received.
type input struct {
	message message
	drop    bpf.Drop
	kind    inputKind
	err     error
}

type inputKind int

const (
	traceMessage inputKind = iota
	traceLost              // events had no room
	hostChanged
	packetDropped
	failed
)

// tick is how often packets are looked at that nothing more was seen of.
const tick = 10 * time.Millisecond

// Run tells events until the context is done, which is no error, or tell returns one.
func (t *Tracer) Run(ctx context.Context, tell func(Event) error) error {
	inputs := make(chan input, 1024)
	ctx, cancel := context.WithCancel(ctx)
	readers := 0
	ended := make(chan struct{})
	start := func(s *nlwire.Socket, read func(*nlwire.Socket, func(input) bool)) {
		readers++
		stop := context.AfterFunc(ctx, func() { _ = s.SetReadDeadline(time.Unix(1, 0)) })
		go func() {
			defer func() { stop(); ended <- struct{}{} }()
			read(s, func(in input) bool {
				select {
				case inputs <- in:
					return true
				case <-ctx.Done():
					return false
				}
			})
		}()
	}
	defer func() {
		cancel()
		for range readers {
			<-ended
		}
	}()
	if t.drops != nil {
		readers++
		go func() {
			defer func() { ended <- struct{}{} }()
			err := t.drops.Run(ctx, func(d bpf.Drop) {
				select {
				case inputs <- input{kind: packetDropped, drop: d}:
				case <-ctx.Done():
				}
			})
			if err != nil {
				select {
				case inputs <- input{kind: failed, err: err}:
				case <-ctx.Done():
				}
			}
		}()
	}
	start(t.events, readEvents)
	start(t.links, readHost)
	t.packets.notify = tell
	for _, text := range t.notes {
		if err := t.note(text); err != nil {
			return err
		}
	}
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			t.packets.matchDrops(time.Now().Add(time.Hour))
			t.packets.end(time.Now().Add(time.Hour))
			return errors.Join(t.packets.err, t.tellLeftOut())
		case in := <-inputs:
			err = t.input(ctx, in)
		case now := <-ticker.C:
			if len(inputs) != 0 { // what waits may be about them
				continue
			}
			t.packets.matchDrops(now)
			t.packets.end(now)
		case <-second.C:
			err = t.everySecond(ctx)
		}
		if err = errors.Join(err, t.packets.err); err != nil {
			return err
		}
	}
}

func (t *Tracer) note(text string) error { return t.packets.notify(Note{Time: time.Now(), Text: text}) }

func (t *Tracer) input(ctx context.Context, in input) error {
	switch in.kind {
	case traceMessage:
		t.packets.event(ctx, in.message, time.Now())
		return nil
	case traceLost:
		t.lost++
		return nil
	case packetDropped:
		t.packets.dropped(in.drop, time.Now())
		return nil
	case hostChanged:
		return t.followHost()
	case failed:
		if ctx.Err() != nil { // that ended the reading
			return nil
		}
	}
	return in.err
}

// everySecond looks at what has changed, and says how many packets were left out.
func (t *Tracer) everySecond(ctx context.Context) error {
	t.names.refresh(ctx)
	if t.opts.Published != nil && t.names.generation() != t.published {
		if err := t.followPublished(ctx); err != nil {
			return err
		}
	}
	t.packets.tellMissing(time.Now())
	return t.tellLeftOut()
}

// tellLeftOut says what was left out since the last time.
func (t *Tracer) tellLeftOut() error {
	n, err := t.table.LeftOut()
	if err != nil {
		return err
	}
	if t.lost != 0 {
		t.lost = 0
		if err := t.note("events were lost: there were more than this program could read"); err != nil {
			return err
		}
	}
	ps := t.packets
	leftOut := n - t.leftOut + ps.full + ps.unseen
	t.leftOut, ps.full, ps.unseen, ps.unseenTold = n, 0, 0, 0
	if leftOut == 0 {
		return nil
	}
	return t.note(fmt.Sprintf("%d packets were left out: at most %d a second are shown", leftOut, marking.MostPackets))
}

// readEvents passes on events of nftrace.
func readEvents(s *nlwire.Socket, pass func(input) bool) {
	buf := make([]byte, nlwire.LargestDatagram)
	for {
		n, err := s.Receive(buf, true)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			if !pass(input{kind: traceLost}) {
				return
			}
			continue
		case err != nil:
			pass(input{kind: failed, err: fmt.Errorf("read events of nftrace: %w", err)})
			return
		}
		m := nlwire.Messages{Data: buf[:n]}
		for m.Next() {
			if e, ok := decodeMessage(m.Message); ok && !pass(input{message: e}) {
				return
			}
		}
	}
}

// readHost says that interfaces or addresses have changed, once for those of a moment.
func readHost(s *nlwire.Socket, pass func(input) bool) {
	buf := make([]byte, nlwire.LargestDatagram)
	for pending := false; ; {
		_, err := s.Receive(buf, !pending)
		switch {
		case errors.Is(err, unix.EAGAIN):
			pending = false
			if !pass(input{kind: hostChanged}) {
				return
			}
		case err == nil, errors.Is(err, unix.ENOBUFS), errors.Is(err, nlwire.ErrMalformed):
			pending = true
		default:
			pass(input{kind: failed, err: fmt.Errorf("read notifications of interfaces: %w", err)})
			return
		}
	}
}

// prepareNotes says what cannot be seen.
func (t *Tracer) prepareNotes() {
	tables, hidden := t.host.legacyTables()
	for _, table := range tables {
		t.packets.unread = append(t.packets.unread, table)
		t.notes = append(t.notes, table+" exists: its rules are in no trace")
	}
	for _, program := range hidden {
		t.packets.unread = append(t.packets.unread, program+", if it has tables")
		t.notes = append(t.notes, program+" may have tables, which only root can list: their rules are in no trace")
	}
	links, _, _, err := t.host.links()
	if err != nil {
		return
	}
	var addrs []netip.Addr
	for _, m := range t.opts.Frontends {
		if a := m.Frontend.Addr(); a.IsValid() && !a.IsUnspecified() {
			addrs = append(addrs, a)
		}
	}
	const most = 4
	lines := t.host.unseen(links, addrs)
	for i, line := range lines {
		if i == most {
			t.notes = append(t.notes, fmt.Sprintf("so have %d more interfaces", len(lines)-most))
			break
		}
		t.notes = append(t.notes, line+": what they drop comes to no rule")
	}
}
