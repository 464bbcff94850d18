// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portholder

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/proxy"
)

// Ports are ports that a program of the kernel looks up.
type Ports interface {
	Add(bpf.Range) error
	Remove(bpf.Range) error
	Replace([]bpf.Range) error
}

// Guard keeps other programs from binding its ports: a *bpf.Hold outside of tests.
type Guard interface {
	Ports
	// Exempt lets a socket bind them.
	Exempt(socket int) error
}

// Lookup leads what arrives at its ports to one socket of each protocol: a *bpf.Lookup outside of tests.
type Lookup interface {
	Ports
	Lead(socket int) error
}

// many holds ranges of ports without a socket for each port, and serves them by one of each protocol.
type many struct {
	h *Holder
	// mu guards spans, which the proxies read.
	mu    sync.RWMutex
	spans map[space][]span
	// proxies are made when they are needed.
	proxies   map[nat.Proto]*proxy.Ports
	inherited map[nat.Proto]*proxy.Socket
	// left are ports that others have: what arrives at them is left to those.
	left map[portset.Frontend]struct{}
}

func newMany(h *Holder) *many {
	return &many{
		h: h, spans: map[space][]span{}, proxies: map[nat.Proto]*proxy.Ports{}, inherited: map[nat.Proto]*proxy.Socket{},
		left: map[portset.Frontend]struct{}{},
	}
}

// takes reports whether the ports are held here: those of a range, if it is too wide for sockets, or if no
// sockets are needed.
func (m *many) takes(p *portset.Port) bool {
	return p.More != 0 && (m.h.opts.Guard != nil || p.Len() > widest)
}

// has reports whether a port is held here.
func (m *many) has(f portset.Frontend) bool {
	_, ok := find(m.spans[spaceOf(f)], f.AddrPort.Port())
	return ok
}

// hasNumber reports whether a port of that number is held here, at whichever address.
func (m *many) hasNumber(proto nat.Proto, port uint16) bool {
	for s, spans := range m.spans {
		if _, ok := find(spans, port); ok && s.proto == proto {
			return true
		}
	}
	return false
}

// busyError says that another program has a port of a range.
type busyError struct{ port uint16 }

func (e *busyError) Error() string { return fmt.Sprintf("port %d is in use", e.port) }

// hold keeps other programs from binding the ports. The error is a *busyError if one has a port already.
func (m *many) hold(p portset.Port) error {
	s := spaceOf(p.Frontend)
	r := rangeOf(s, p.First(), p.Last())
	if g := m.h.opts.Guard; g != nil {
		if err := g.Add(r); err != nil {
			return err
		}
	}
	// Only now nobody can come in between.
	busy, err := m.busy(p)
	if err == nil && len(busy) != 0 {
		err = &busyError{slices.Min(busy)}
	}
	if err != nil {
		if g := m.h.opts.Guard; g != nil {
			err = errors.Join(err, g.Remove(r))
		}
		return err
	}
	m.put(s, span{p.First(), p.Last(), p.Backend.Addr(), false})
	return nil
}

// busy returns the ports that sockets of other programs wait at.
func (m *many) busy(p portset.Port) (ports []uint16, err error) {
	sockets, err := hostnet.Holders(m.h.opts.Namespace, p.Proto, p.AddrPort.Addr(), hostnet.PortRange{First: p.First(), Last: p.Last()})
	if err != nil || len(sockets) == 0 {
		return nil, err
	}
	own := m.h.inodes()
	for _, s := range sockets {
		if _, ok := own[s.Inode]; !ok {
			ports = append(ports, s.Addr.Port())
		}
	}
	return ports, nil
}

// inodes are those of the sockets of the Holder.
func (h *Holder) inodes() map[uint32]struct{} {
	own := map[uint32]struct{}{}
	add := func(fd int) {
		var stat unix.Stat_t
		if fd >= 0 && unix.Fstat(fd, &stat) == nil {
			own[uint32(stat.Ino)] = struct{}{}
		}
	}
	for _, fd := range h.Lend {
		add(fd)
	}
	for _, s := range h.inherited {
		add(s.Descriptor())
	}
	for _, s := range h.many.inherited {
		add(s.Descriptor())
	}
	return own
}

// release gives the ports back that are held here.
func (m *many) release(p portset.Port) error {
	s := spaceOf(p.Frontend)
	spans := m.spans[s]
	if i, ok := find(spans, p.First()); !ok && (i == len(spans) || spans[i].first > p.Last()) {
		return nil
	}
	m.mu.Lock()
	m.store(s, cut(spans, p.First(), p.Last()))
	m.mu.Unlock()
	for f := range m.left {
		if p.Contains(f) {
			delete(m.left, f)
		}
	}
	r := rangeOf(s, p.First(), p.Last())
	var errs [2]error
	if m.h.opts.Lookup != nil {
		errs[0] = m.h.opts.Lookup.Remove(r)
	}
	m.changed(p)
	if m.h.opts.Guard != nil {
		errs[1] = m.h.opts.Guard.Remove(r)
	}
	return errors.Join(errs[:]...)
}

// put puts a span in the place of what it overlaps.
func (m *many) put(s space, x span) {
	m.mu.Lock()
	defer m.mu.Unlock()
	spans := cut(m.spans[s], x.first, x.last)
	i, _ := find(spans, x.first)
	if i < len(spans) && int(x.last)+1 == int(spans[i].first) && x.alike(spans[i]) {
		x.last = spans[i].last
		spans = slices.Delete(spans, i, i+1)
	}
	if i > 0 && int(spans[i-1].last)+1 == int(x.first) && x.alike(spans[i-1]) {
		i--
		x.first = spans[i].first
		spans = slices.Delete(spans, i, i+1)
	}
	m.store(s, slices.Insert(spans, i, x))
}

func (m *many) store(s space, spans []span) {
	if len(spans) == 0 {
		delete(m.spans, s)
	} else {
		m.spans[s] = spans
	}
}

// sync holds and serves the ranges, and no others. Ports that others have are left to them.
func (m *many) sync(ranges []portset.Port) error {
	var held, served []bpf.Range
	for _, p := range ranges {
		held = append(held, rangeOf(spaceOf(p.Frontend), p.First(), p.Last()))
	}
	var errs []error
	if g := m.h.opts.Guard; g != nil {
		errs = append(errs, g.Replace(held))
	}
	clear(m.left)
	spans := map[space][]span{}
	for _, p := range ranges {
		s := spaceOf(p.Frontend)
		busy, err := m.busy(p)
		errs = append(errs, err)
		for _, port := range busy {
			m.leave(p, port)
		}
		x := span{p.First(), p.Last(), p.Backend.Addr(), !p.NoProxy && m.h.opts.Lookup != nil}
		if x.served {
			if err := m.open(p.Proto); err != nil {
				errs = append(errs, err)
				x.served = false
			}
		}
		if x.served {
			served = append(served, m.leads(s, p.First(), p.Last())...)
		}
		i, _ := find(spans[s], p.First())
		spans[s] = slices.Insert(spans[s], i, x)
	}
	before := m.spans
	m.mu.Lock()
	m.spans = spans
	m.mu.Unlock()
	if l := m.h.opts.Lookup; l != nil {
		errs = append(errs, l.Replace(served))
	}
	for proto, px := range m.proxies {
		_ = px.Changed(func(local netip.AddrPort) bool {
			return backendOf(before, proto, local) != backendOf(spans, proto, local)
		})
	}
	return errors.Join(errs...)
}

// leave leaves a port to the program that has it, until Retry finds it free.
func (m *many) leave(p portset.Port, port uint16) {
	f := p.Part(port, port).Frontend
	m.left[f] = struct{}{}
	if _, known := m.h.retry.ports[f]; !known {
		m.h.scheduleRetry(f)
		if !p.NoProxy {
			m.h.opts.Log.Warn("mapping has no proxy", "mapping", p.Part(port, port).Mapping().String(), "error", m.h.opts.Owner(p.Part(port, port)))
		}
	}
}

// admit serves a port of a range that was left to others, if it is free now.
func (m *many) admit(p portset.Port) error {
	busy, err := m.busy(p)
	if err != nil {
		return err
	}
	if len(busy) != 0 {
		return unix.EADDRINUSE
	}
	delete(m.left, p.Frontend)
	if p.NoProxy {
		return nil
	}
	return m.lead(p, true)
}

// close ends the proxies; the Holder's group ends their connections.
func (m *many) close() (errs []error) {
	for _, s := range m.inherited {
		errs = append(errs, s.Close())
	}
	clear(m.inherited)
	return errs
}
