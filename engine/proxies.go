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
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/proxy"
)

// proxies serve in user space what netfilter cannot translate: clients on this
// host's loopback addresses, clients of the other family than the backend's, and
// every client while rules are missing. Each published port has a socket, with or
// without a proxy behind it: that keeps other processes from the port.
type proxies struct {
	group *proxy.Group
	held  map[frontend]*proxy.Socket // bound, with no proxy behind
	open  map[frontend]proxy.Proxy
	// missing are those that other processes had.
	missing missing
	// inherited are those that another process has lent and that are no mapping's yet, and
	// waiting is whether that process serves meanwhile: see Engine.Begin.
	inherited map[frontend]*proxy.Socket
	waiting   bool
}

func newProxies(ns *hostnet.Namespace, log *slog.Logger) *proxies {
	return &proxies{
		group: proxy.NewGroup(&proxy.GroupOptions{
			NetNS:      ns.FD(),
			PipeFailed: func(err error) { log.Warn("proxies copy bulk data instead of splicing", "error", err) },
		}),
		held: map[frontend]*proxy.Socket{},
		open: map[frontend]proxy.Proxy{},
	}
}

// bind takes a port against every other process. Its socket answers nothing.
func (ps *proxies) bind(f frontend) error {
	if _, ok := ps.open[f]; ok || ps.held[f] != nil {
		return nil
	}
	if s := ps.inherited[f]; s != nil {
		delete(ps.inherited, f)
		ps.held[f] = s
		return nil
	}
	s, err := proxy.Bind(socketAddr(f.proto, f.ap), ps.options(f))
	if err != nil {
		return err
	}
	ps.held[f] = s
	return nil
}

func (ps *proxies) options(f frontend) *proxy.Options {
	return &proxy.Options{Group: ps.group, V6Only: f.ap.Addr() == netip.IPv6Unspecified()}
}

// serve puts a proxy behind the socket of a port that was bound. Where none is wanted
// the port refuses those whom netfilter does not serve.
func (ps *proxies) serve(p port) error {
	s := ps.held[p.frontend]
	if s == nil {
		return nil
	}
	if p.noProxy {
		return s.Refuse()
	}
	px, err := s.Proxy(socketAddr(p.proto, p.backend), ps.options(p.frontend))
	if err != nil {
		return err
	}
	delete(ps.held, p.frontend)
	ps.open[p.frontend] = px
	if ps.waiting {
		return nil
	}
	return px.Open()
}

// close gives a port back: its proxy ends with its connections.
func (ps *proxies) close(f frontend) error { return ps.vacate(f, proxy.Proxy.Close) }

// retire gives a port back: TCP connections of its proxy go on, as those do that
// netfilter carries.
func (ps *proxies) retire(f frontend) error { return ps.vacate(f, proxy.Proxy.Retire) }

func (ps *proxies) vacate(f frontend, end func(proxy.Proxy) error) error {
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
func (ps *proxies) retarget(m move, kill bool) error {
	if px := ps.open[m.frontend]; px != nil && !m.to.noProxy {
		if m.from.backend == m.to.backend {
			return nil // or its flows would begin anew
		}
		return px.SetBackend(socketAddr(m.proto, m.to.backend))
	}
	if m.from.noProxy == m.to.noProxy {
		return nil
	}
	if !m.to.noProxy {
		return ps.serve(m.after())
	}
	// The proxy's socket cannot be had back: the port is free for a moment.
	end := ps.retire
	if kill {
		end = ps.close
	}
	if err := end(m.frontend); err != nil {
		return err
	}
	if err := ps.bind(m.frontend); err != nil {
		return err
	}
	return ps.serve(m.after())
}

// bindAll binds the ports that a change adds, or none of them. The error is a
// *takenError if it is another process that has a port which the engine chose.
func (e *Engine) bindAll(c change) error {
	if e.proxies == nil {
		return nil
	}
	for i, p := range c.added {
		e.report("bind", i, len(c.added))
		if err := e.proxies.bind(p.frontend); err != nil {
			if i >= len(c.added)-c.chosen && errors.Is(err, unix.EADDRINUSE) {
				err = &takenError{p}
			} else {
				err = e.bindError(p, len(c.added), err)
			}
			if undoErr := e.unbind(c.added[:i]); undoErr != nil {
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
	wanted := make(map[number]struct{}, len(c.added))
	for _, p := range c.added {
		wanted[number{p.proto, p.ap.Port()}] = struct{}{}
	}
	for _, p := range c.removed {
		if _, ok := wanted[number{p.proto, p.ap.Port()}]; ok {
			gone = append(gone, vacated{p, e.proxies.open[p.frontend]})
			e.retireProxy(p.frontend)
		}
	}
	return gone
}

// vacated is a port that was given up for a change, and its proxy, which may still carry
// connections; nil: it had none.
type vacated struct {
	port
	proxy proxy.Proxy
}

// reoccupy binds and serves as before what was vacated or moved for a change that
// failed.
func (e *Engine) reoccupy(vacated []port) error {
	var errs []error
	for _, p := range vacated {
		if err := e.proxies.adopt(p); err != nil {
			e.noteMissing(p.frontend)
			errs = append(errs, e.bindError(p, 1, err))
		}
	}
	return errors.Join(errs...)
}

// unbind gives ports back.
func (e *Engine) unbind(ports []port) error {
	var errs []error
	for _, p := range ports {
		errs = append(errs, e.proxies.close(p.frontend))
	}
	return errors.Join(errs...)
}

// bindError says what an error of binding means: who has the port, or which limit
// is in the way.
func (e *Engine) bindError(p port, count int, err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return e.findHolder(p)
	case errors.Is(err, unix.EMFILE):
		return fmt.Errorf("hold %d ports: %w: raise RLIMIT_NOFILE (LimitNOFILE= of a unit)", count, err)
	case errors.Is(err, unix.ENFILE):
		return fmt.Errorf("hold %d ports: %w: raise fs.file-max", count, err)
	}
	return fmt.Errorf("hold %s: %w", nat.DescribeFrontend(p.mapping()), err)
}

// serveAll opens the proxies of what a change adds and gives those of what it moves
// their new backends.
func (e *Engine) serveAll(c change) error {
	if e.proxies == nil {
		return nil
	}
	for i, p := range c.added {
		e.report("open", i, c.lenAfter())
		if err := e.proxies.serve(p); err != nil {
			return fmt.Errorf("open proxy of %s: %w", p.mapping(), err)
		}
	}
	released := frontendsOf(c.released)
	kills := func(m move) bool {
		return c.killTCP && m.from.backend != m.to.backend || released.has(m.frontend)
	}
	for i, m := range c.moved {
		e.report("open", len(c.added)+i, c.lenAfter())
		if err := e.proxies.retarget(m, kills(m)); err != nil {
			return fmt.Errorf("retarget proxy of %s: %w", m.after().mapping(), err)
		}
	}
	for _, m := range c.moved {
		if kills(m) {
			e.proxies.reset(m.frontend)
		}
	}
	for _, p := range c.released { // one may be published as it was, by itself
		e.proxies.reset(p.frontend)
	}
	return nil
}

// reset ends the connections and flows of a port's proxy, if it has one.
func (ps *proxies) reset(f frontend) {
	if px := ps.open[f]; px != nil {
		_ = px.Reset() // its one error is that it is closed, with all that it had
	}
}

// frontends are a set of them.
type frontends map[frontend]struct{}

func frontendsOf(ports []port) frontends {
	if len(ports) == 0 {
		return nil
	}
	fs := make(frontends, len(ports))
	for _, p := range ports {
		fs[p.frontend] = struct{}{}
	}
	return fs
}

func (fs frontends) has(f frontend) bool {
	_, ok := fs[f]
	return ok
}

// retireProxy gives the port back that is published no longer.
func (e *Engine) retireProxy(f frontend) {
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
	for _, p := range c.removed {
		if c.killTCP || released.has(p.frontend) {
			e.ended(p.frontend, e.proxies.close(p.frontend))
		}
	}
	for _, v := range vacated {
		if v.proxy != nil && (c.killTCP || released.has(v.frontend)) {
			e.ended(v.frontend, v.proxy.Close())
		}
	}
}

// ended logs why a proxy could not be closed cleanly, if so.
func (e *Engine) ended(f frontend, err error) {
	if err != nil {
		e.log.Warn("proxy could not be closed cleanly", "frontend", f.ap, "error", err)
	}
}

// syncProxies brings the proxies in step with the mappings that were adopted. What
// cannot be served is published all the same: the kernel does so already.
func (e *Engine) syncProxies() {
	if e.proxies == nil {
		return
	}
	for f := range e.proxies.all {
		if _, ok := e.mappings.get(f); !ok {
			e.retireProxy(f)
		}
	}
	for p := range e.mappings.all {
		_, known := e.proxies.missing.ports[p.frontend]
		switch err := e.proxies.adopt(p); {
		case err == nil:
			delete(e.proxies.missing.ports, p.frontend)
		case !known:
			e.noteMissing(p.frontend)
			e.log.Warn("mapping has no proxy", "mapping", p.mapping().String(), "error", e.bindError(p, 1, err))
		}
	}
}

// adopt binds and serves a port that was found published, as far as it is not yet.
func (ps *proxies) adopt(p port) error {
	if px := ps.open[p.frontend]; px != nil {
		if px.BackendAddr().String() == p.backend.String() && !p.noProxy {
			return nil
		}
		return ps.retarget(move{p.frontend, target{}, p.target}, false)
	}
	if err := ps.bind(p.frontend); err != nil {
		return err
	}
	return ps.serve(p)
}

// all yields the frontends that are bound. They may be closed meanwhile.
func (ps *proxies) all(yield func(frontend) bool) {
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
