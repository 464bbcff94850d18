// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portholder

import (
	"errors"
	"net/netip"

	"github.com/nftnat/nftnat/bpf"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/proxy"
)

// serve serves the ports that are held, or makes them lead to another backend.
func (m *many) serve(p portset.Port) error {
	s := spaceOf(p.Frontend)
	served := !p.NoProxy && m.h.opts.Lookup != nil
	if served {
		if err := m.open(p.Proto); err != nil {
			return err
		}
	}
	m.put(s, span{p.First(), p.Last(), p.Backend.Addr(), served})
	if err := m.lead(p, served); err != nil {
		return err
	}
	m.changed(p)
	return nil
}

// lead has the kernel lead the ports to the proxy, or not any more.
func (m *many) lead(p portset.Port, served bool) error {
	l := m.h.opts.Lookup
	if l == nil {
		return nil
	}
	s := spaceOf(p.Frontend)
	if !served {
		return l.Remove(rangeOf(s, p.First(), p.Last()))
	}
	for _, r := range m.leads(s, p.First(), p.Last()) {
		if err := l.Add(r); err != nil {
			return err
		}
	}
	return nil
}

// leads returns the ports that can be led to the proxy: no socket of others waits at them, and over UDP none of a client may
// be there, whose answers would be led to the proxy too.
func (m *many) leads(s space, first, last uint16) []bpf.Range {
	spans := []span{{first: first, last: last}}
	if s.proto == nat.UDP {
		if clients, err := m.h.opts.Clients(); err == nil {
			spans = cut(spans, clients.First, clients.Last)
		}
	}
	for f := range m.left {
		if spaceOf(f) == s {
			spans = cut(spans, f.AddrPort.Port(), f.AddrPort.Port())
		}
	}
	ranges := make([]bpf.Range, len(spans))
	for i, x := range spans {
		ranges[i] = rangeOf(s, x.first, x.last)
	}
	return ranges
}

// makeRoom gives a port up that the proxies of ranges have, so that it can be bound, and reports whether there was one: that of
// their own socket, or one by which flows of UDP are answered. leadAgain undoes it.
func (m *many) makeRoom(f portset.Frontend) bool {
	px := m.proxies[f.Proto]
	if px == nil {
		return false
	}
	room := false
	if own, err := netip.ParseAddrPort(px.FrontendAddr().String()); err == nil && own.Port() == f.AddrPort.Port() {
		delete(m.proxies, f.Proto)
		if err := m.open(f.Proto); err != nil {
			m.proxies[f.Proto] = px
			return false
		}
		_ = px.Retire() // which closes a descriptor
		room = true
	}
	if i, ok := find(m.spans[spaceOf(f)], f.AddrPort.Port()); ok && f.Proto == nat.UDP && m.spans[spaceOf(f)][i].served {
		port := f.AddrPort.Port()
		if m.h.opts.Lookup.Remove(rangeOf(spaceOf(f), port, port)) == nil {
			m.changed(portset.Port{Frontend: f})
			room = true
		}
	}
	return room
}

// leadAgain has the kernel lead a port of a range to the proxy as before makeRoom.
func (m *many) leadAgain(f portset.Frontend) error {
	port := f.AddrPort.Port()
	if i, ok := find(m.spans[spaceOf(f)], port); ok && m.spans[spaceOf(f)][i].served {
		return m.lead(portset.Port{Frontend: f}, true)
	}
	return nil
}

// open opens the proxy of a protocol, unless it is.
func (m *many) open(proto nat.Proto) error {
	if m.proxies[proto] != nil {
		return nil
	}
	opts := m.h.socketOptions()
	s := m.inherited[proto]
	delete(m.inherited, proto)
	if s == nil {
		var err error
		if s, err = proxy.BindPorts(proto.String(), opts); err != nil {
			return err
		}
	}
	px, err := s.Ports(m.backends(proto), opts)
	if err != nil {
		return errors.Join(err, s.Close())
	}
	if !m.h.waiting {
		err = px.Open()
	}
	if err == nil {
		err = m.h.opts.Lookup.Lead(px.Descriptor())
	}
	if err != nil {
		return errors.Join(err, px.Close())
	}
	m.proxies[proto] = px
	return nil
}

// backends returns where the proxy of a protocol leads clients.
func (m *many) backends(proto nat.Proto) proxy.Backends {
	return func(local netip.AddrPort) netip.AddrPort {
		m.mu.RLock()
		defer m.mu.RUnlock()
		return backendOf(m.spans, proto, local)
	}
}

func backendOf(spans map[space][]span, proto nat.Proto, local netip.AddrPort) netip.AddrPort {
	any := netip.IPv6Unspecified()
	if local.Addr().Is4() {
		any = netip.IPv4Unspecified()
	}
	for _, a := range []netip.Addr{local.Addr().WithZone(""), any, {}} {
		if of := spans[space{proto, a}]; len(of) != 0 {
			if i, ok := find(of, local.Port()); ok && of[i].served {
				return netip.AddrPortFrom(of[i].backend, local.Port())
			}
		}
	}
	return netip.AddrPort{}
}

// changed tells the proxy that ports lead elsewhere.
func (m *many) changed(p portset.Port) {
	if px := m.proxies[p.Proto]; px != nil {
		_ = px.Changed(at(p)) // the only error: it is closed
	}
}

// reset ends the connections and flows of ports.
func (m *many) reset(p portset.Port) {
	if px := m.proxies[p.Proto]; px != nil {
		_ = px.ResetPorts(at(p)) // the only error: it is closed, and so are they
	}
}

// at returns a condition on the addresses that clients called: those of the ports.
func at(p portset.Port) func(netip.AddrPort) bool {
	addr := p.AddrPort.Addr()
	return func(local netip.AddrPort) bool {
		switch {
		case local.Port() < p.First() || local.Port() > p.Last():
			return false
		case !addr.IsValid():
			return true
		case addr.IsUnspecified():
			return addr.Is4() == local.Addr().Is4()
		}
		return addr == local.Addr().WithZone("")
	}
}
