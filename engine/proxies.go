// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/proxy"
)

// proxies serve in user space what netfilter cannot translate: clients on this
// host's loopback addresses, clients of the other family than the backend's, and
// every client while rules are missing. Each published port has a socket, with or
// without a proxy behind it: that keeps other processes from the port.
type proxies struct {
	group *proxy.Group
	held  map[portset.Frontend]*proxy.Socket // bound, with no proxy behind
	open  map[portset.Frontend]proxy.Proxy
	// missing are those that other processes had.
	missing missing
	// inherited are those that another process has lent and that are no mapping's yet, and
	// waiting is whether that process serves meanwhile: see Engine.Begin.
	inherited map[portset.Frontend]*proxy.Socket
	waiting   bool
}

func newProxies(ns *hostnet.Namespace, log *slog.Logger) *proxies {
	return &proxies{
		group: proxy.NewGroup(&proxy.GroupOptions{
			NetNS:      ns.FD(),
			PipeFailed: func(err error) { log.Warn("proxies copy bulk data instead of splicing", "error", err) },
		}),
		held: map[portset.Frontend]*proxy.Socket{},
		open: map[portset.Frontend]proxy.Proxy{},
	}
}

// bind takes a port against every other process. Its socket answers nothing.
func (ps *proxies) bind(f portset.Frontend) error {
	if _, ok := ps.open[f]; ok || ps.held[f] != nil {
		return nil
	}
	if s := ps.inherited[f]; s != nil {
		delete(ps.inherited, f)
		ps.held[f] = s
		return nil
	}
	s, err := proxy.Bind(socketAddr(f.Proto, f.AddrPort), ps.options(f))
	if err != nil {
		return err
	}
	ps.held[f] = s
	return nil
}

func (ps *proxies) options(f portset.Frontend) *proxy.Options {
	return &proxy.Options{Group: ps.group, V6Only: f.AddrPort.Addr() == netip.IPv6Unspecified()}
}

// serve puts a proxy behind the socket of a port that was bound. Where none is wanted
// the port refuses those whom netfilter does not serve.
func (ps *proxies) serve(p portset.Port) error {
	s := ps.held[p.Frontend]
	if s == nil {
		return nil
	}
	if p.NoProxy {
		return s.Refuse()
	}
	px, err := s.Proxy(socketAddr(p.Proto, p.Backend), ps.options(p.Frontend))
	if err != nil {
		return err
	}
	delete(ps.held, p.Frontend)
	ps.open[p.Frontend] = px
	if ps.waiting {
		return nil
	}
	return px.Open()
}

// close gives a port back: its proxy ends with its connections.
func (ps *proxies) close(f portset.Frontend) error { return ps.vacate(f, proxy.Proxy.Close) }

// retire gives a port back: TCP connections of its proxy go on, as those do that
// netfilter carries.
func (ps *proxies) retire(f portset.Frontend) error { return ps.vacate(f, proxy.Proxy.Retire) }

func (ps *proxies) vacate(f portset.Frontend, end func(proxy.Proxy) error) error {
	delete(ps.missing.ports, f)
	var errs []error
	if s := ps.held[f]; s != nil {
		delete(ps.held, f)
		errs = append(errs, s.Close())
	}
	if px := ps.open[f]; px != nil {
		delete(ps.open, f)
		errs = append(errs, end(px))
	}
	return errors.Join(errs...)
}

// closeAll gives all ports back.
func (ps *proxies) closeAll() error {
	var errs []error
	for _, s := range ps.held {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, ps.disown(), ps.group.Close())...)
}

// socketAddr is an address for a socket: without a host for any address of either
// family.
func socketAddr(proto nat.Proto, ap netip.AddrPort) net.Addr {
	if proto == nat.UDP {
		return net.UDPAddrFromAddrPort(ap)
	}
	return net.TCPAddrFromAddrPort(ap)
}

// retarget gives the port of a mapping another backend, and a proxy or none. Whether the
// connections of a proxy that goes end with it is told.
func (ps *proxies) retarget(m portset.Move, kill bool) error {
	if px := ps.open[m.Frontend]; px != nil && !m.To.NoProxy {
		if m.From.Backend == m.To.Backend {
			return nil // or its flows would begin anew
		}
		return px.SetBackend(socketAddr(m.Proto, m.To.Backend))
	}
	if m.From.NoProxy == m.To.NoProxy {
		return nil
	}
	if !m.To.NoProxy {
		return ps.serve(m.After())
	}
	// The proxy's socket cannot be had back: the port is free for a moment.
	end := ps.retire
	if kill {
		end = ps.close
	}
	if err := end(m.Frontend); err != nil {
		return err
	}
	if err := ps.bind(m.Frontend); err != nil {
		return err
	}
	return ps.serve(m.After())
}

// bindAll binds the ports that a change adds, or none of them. The error is a
// *takenError if it is another process that has a port which the engine chose.
func (e *Engine) bindAll(c change) error {
	if e.proxies == nil {
		return nil
	}
	for i, p := range c.Added {
		e.report("bind", i, len(c.Added))
		if err := e.proxies.bind(p.Frontend); err != nil {
			if i >= len(c.Added)-c.chosen && errors.Is(err, unix.EADDRINUSE) {
				err = &takenError{p}
			} else {
				err = e.bindError(p, len(c.Added), err)
			}
			if undoErr := e.unbind(c.Added[:i]); undoErr != nil {
				err = undone(err, undoErr)
			}
			return err
		}
	}
	return nil
}

// vacate gives up what a change removes and what is in the way of what it adds: one
// of the two has an address that the other is for as well.
func (e *Engine) vacate(c change) (gone []vacated) {
	type number struct {
		proto nat.Proto
		port  uint16
	}
	wanted := make(map[number]struct{}, len(c.Added))
	for _, p := range c.Added {
		wanted[number{p.Proto, p.AddrPort.Port()}] = struct{}{}
	}
	for _, p := range c.Removed {
		if _, ok := wanted[number{p.Proto, p.AddrPort.Port()}]; ok {
			gone = append(gone, vacated{p, e.proxies.open[p.Frontend]})
			e.retireProxy(p.Frontend)
		}
	}
	return gone
}

// vacated is a port that was given up for a change, and its proxy, which may still carry
// connections; nil: it had none.
type vacated struct {
	portset.Port
	proxy proxy.Proxy
}

// reoccupy binds and serves as before what was vacated or moved for a change that
// failed.
func (e *Engine) reoccupy(vacated []portset.Port) error {
	var errs []error
	for _, p := range vacated {
		if err := e.proxies.adopt(p); err != nil {
			e.noteMissing(p.Frontend)
			errs = append(errs, e.bindError(p, 1, err))
		}
	}
	return errors.Join(errs...)
}

// unbind gives ports back.
func (e *Engine) unbind(ports []portset.Port) error {
	var errs []error
	for _, p := range ports {
		errs = append(errs, e.proxies.close(p.Frontend))
	}
	return errors.Join(errs...)
}

// bindError says what an error of binding means: who has the port, or which limit
// is in the way.
func (e *Engine) bindError(p portset.Port, count int, err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return e.findHolder(p)
	case errors.Is(err, unix.EMFILE):
		return fmt.Errorf("hold %d ports: %w: raise RLIMIT_NOFILE (LimitNOFILE= of a unit)", count, err)
	case errors.Is(err, unix.ENFILE):
		return fmt.Errorf("hold %d ports: %w: raise fs.file-max", count, err)
	}
	return fmt.Errorf("hold %s: %w", nat.DescribeFrontend(p.Mapping()), err)
}

// serveAll opens the proxies of what a change adds and gives those of what it moves
// their new backends.
func (e *Engine) serveAll(c change) error {
	if e.proxies == nil {
		return nil
	}
	for i, p := range c.Added {
		e.report("open", i, c.LenAfter())
		if err := e.proxies.serve(p); err != nil {
			return fmt.Errorf("open proxy of %s: %w", p.Mapping(), err)
		}
	}
	released := frontendsOf(c.released)
	kills := func(m portset.Move) bool {
		return c.killTCP && m.From.Backend != m.To.Backend || released.has(m.Frontend)
	}
	for i, m := range c.Moved {
		e.report("open", len(c.Added)+i, c.LenAfter())
		if err := e.proxies.retarget(m, kills(m)); err != nil {
			return fmt.Errorf("retarget proxy of %s: %w", m.After().Mapping(), err)
		}
	}
	for _, m := range c.Moved {
		if kills(m) {
			e.proxies.reset(m.Frontend)
		}
	}
	for _, p := range c.released { // one may be published as it was, by itself
		e.proxies.reset(p.Frontend)
	}
	return nil
}

// reset ends the connections and flows of a port's proxy, if it has one.
func (ps *proxies) reset(f portset.Frontend) {
	if px := ps.open[f]; px != nil {
		_ = px.Reset() // its one error is that it is closed, with all that it had
	}
}

// frontends are a set of them.
type frontends map[portset.Frontend]struct{}

func frontendsOf(ports []portset.Port) frontends {
	if len(ports) == 0 {
		return nil
	}
	fs := make(frontends, len(ports))
	for _, p := range ports {
		fs[p.Frontend] = struct{}{}
	}
	return fs
}

func (fs frontends) has(f portset.Frontend) bool {
	_, ok := fs[f]
	return ok
}

// retireProxy gives the port back that is published no longer.
func (e *Engine) retireProxy(f portset.Frontend) {
	if e.proxies != nil {
		e.ended(f, e.proxies.retire(f))
	}
}

// killProxies ends the proxies of ports that the change removes, and their connections, as
// far as it is to; some were vacated for it.
func (e *Engine) killProxies(c change, vacated []vacated) {
	if e.proxies == nil {
		return
	}
	released := frontendsOf(c.released)
	for _, p := range c.Removed {
		if c.killTCP || released.has(p.Frontend) {
			e.ended(p.Frontend, e.proxies.close(p.Frontend))
		}
	}
	for _, v := range vacated {
		if v.proxy != nil && (c.killTCP || released.has(v.Frontend)) {
			e.ended(v.Frontend, v.proxy.Close())
		}
	}
}

// ended logs why a proxy could not be closed cleanly, if so.
func (e *Engine) ended(f portset.Frontend, err error) {
	if err != nil {
		e.log.Warn("proxy could not be closed cleanly", "frontend", f.AddrPort, "error", err)
	}
}

// syncProxies brings the proxies in step with the mappings that were adopted. What
// cannot be served is published all the same: the kernel does so already.
func (e *Engine) syncProxies() {
	if e.proxies == nil {
		return
	}
	for f := range e.proxies.all {
		if _, ok := e.mappings.Get(f); !ok {
			e.retireProxy(f)
		}
	}
	for p := range e.mappings.All {
		_, known := e.proxies.missing.ports[p.Frontend]
		switch err := e.proxies.adopt(p); {
		case err == nil:
			delete(e.proxies.missing.ports, p.Frontend)
		case !known:
			e.noteMissing(p.Frontend)
			e.log.Warn("mapping has no proxy", "mapping", p.Mapping().String(), "error", e.bindError(p, 1, err))
		}
	}
}

// adopt binds and serves a port that was found published, as far as it is not yet.
func (ps *proxies) adopt(p portset.Port) error {
	if px := ps.open[p.Frontend]; px != nil {
		if px.BackendAddr().String() == p.Backend.String() && !p.NoProxy {
			return nil
		}
		return ps.retarget(portset.Move{Frontend: p.Frontend, From: portset.Target{}, To: p.Target}, false)
	}
	if err := ps.bind(p.Frontend); err != nil {
		return err
	}
	return ps.serve(p)
}

// all yields the frontends that are bound. They may be closed meanwhile.
func (ps *proxies) all(yield func(portset.Frontend) bool) {
	for f := range ps.held {
		if !yield(f) {
			return
		}
	}
	for f := range ps.open {
		if !yield(f) {
			return
		}
	}
}
