// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

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
