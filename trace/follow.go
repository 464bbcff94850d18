// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"context"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/trace/internal/marking"
)

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
