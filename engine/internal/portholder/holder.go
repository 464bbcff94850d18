// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portholder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/proxy"
)

// Options configure a Holder.
type Options struct {
	// Namespace is that of the sockets. Nil: the Holder never holds a port, and needs no
	// other option.
	Namespace *hostnet.Namespace
	Log       *slog.Logger
	// Owner returns the error that says which process has a port.
	Owner func(portset.Port) error
	// Progress is called for each port of a step.
	Progress func(step string, done, total int)
	Now      func() time.Time
	// PipeFailed is that of the proxies' group, which calls it in a goroutine of its own.
	// Nil: nothing is called.
	PipeFailed func(error)
	// Guard and Lookup hold and serve ranges of ports without a socket each. Nil: they are not to be
	// had, and ranges of up to 1,024 ports have sockets.
	Guard  Guard
	Lookup Lookup
	// Exempt is called for each socket before it is bound, until Begin. It lets it bind what the guard of another process holds.
	// Nil: there is none.
	Exempt func(socket int) error
	// Clients returns the ports of which the kernel chooses those of clients.
	Clients func() (hostnet.PortRange, error)
}

// Holder holds ports. It has no lock: the caller makes one call at a time.
type Holder struct {
	opts  Options
	group *proxy.Group
	ports map[portset.Frontend]held
	retry retry
	many  *many
	// shared are the ports that are not held.
	shared *shared
	// inherited are sockets that another process has lent and that no mapping needed so
	// far; waiting is whether that process still serves. See Begin.
	inherited map[portset.Frontend]*proxy.Socket
	waiting   bool
}

// held is what holds a port: a socket, or the proxy that it became.
type held struct {
	socket *proxy.Socket
	proxy  proxy.Proxy
}

// New returns a Holder without ports.
func New(opts Options) *Holder {
	group := &proxy.GroupOptions{PipeFailed: opts.PipeFailed}
	if opts.Namespace != nil {
		group.NetNS = opts.Namespace.FD()
	}
	h := &Holder{opts: opts, group: proxy.NewGroup(group), ports: map[portset.Frontend]held{}, retry: newRetry()}
	h.many, h.shared = newMany(h), newShared(h)
	return h
}

// Enabled reports whether the Holder ever holds a port.
func (h *Holder) Enabled() bool { return h.opts.Namespace != nil }

// Close gives all ports back and ends all connections.
func (h *Holder) Close() error {
	errs := append(h.many.close(), h.closeInherited())
	for _, p := range h.ports {
		if p.socket != nil {
			errs = append(errs, p.socket.Close())
		}
	}
	return errors.Join(append(errs, h.group.Close())...)
}

// Shutdown waits until ctx is done for the connections of the proxies to end, those of
// retired ones too. Then it ends them.
func (h *Holder) Shutdown(ctx context.Context) {
	_ = h.group.Shutdown(ctx) // the error says that connections were ended
}

// All yields the ports that are held, with their proxies, which are nil for ports without, and
// shared ones that have proxies: those for both families twice. Ports may be released meanwhile.
func (h *Holder) All(yield func(portset.Frontend, proxy.Proxy) bool) {
	for f, p := range h.ports {
		if !yield(f, p.proxy) {
			return
		}
	}
	for l, px := range h.shared.proxies {
		if !yield(l.Frontend, px) {
			return
		}
	}
}

// ResetAddr ends the connections and flows of the proxies, those of retired ones too, that
// have an address of this host as their local one: the host no longer has it.
func (h *Holder) ResetAddr(a netip.Addr) {
	h.group.ResetAddr(a)
}

// Stats returns the counters of all proxies since New, and how many are open.
// flows is how many of the live ones are UDP flows and not TCP connections.
func (h *Holder) Stats() (s proxy.Stats, flows int64, open int) {
	s = h.group.Former() // has no live flows: they end with their proxies
	count := func(proto nat.Proto, px proxy.Proxy) {
		open++
		stats := px.Stats()
		s.Add(stats)
		if proto == nat.UDP {
			flows += stats.Live
		}
	}
	for f, px := range h.All {
		if px != nil {
			count(f.Proto, px)
		}
	}
	for proto, px := range h.many.proxies {
		count(proto, px)
	}
	return s, flows, open
}

// Unserved returns how many of the ports that should have a proxy have none.
func (h *Holder) Unserved(published *portset.Set) (n int) {
	if !h.Enabled() {
		return 0
	}
	for p := range h.each(unshared(published.All)) {
		// What is left of a wide range may be narrow, and is served as it was.
		if h.ports[p.Frontend].proxy == nil && !p.NoProxy && !h.many.has(p.Frontend) {
			n++
		}
	}
	for p := range h.shared.of(published.All) {
		if _, waits := h.retry.ports[p.Frontend]; waits {
			n++
		}
	}
	return n + len(h.many.left)
}

// PipeError is that of the proxies' group.
func (h *Holder) PipeError() error {
	return h.group.PipeError()
}

// Sync holds the ports of the set, and no others. Ports that cannot be served are
// published all the same: Retry tries again.
func (h *Holder) Sync(published *portset.Set) {
	if !h.Enabled() {
		return
	}
	var ranges []portset.Port
	for p := range unshared(published.All) {
		if h.many.takes(&p) {
			ranges = append(ranges, p)
		}
	}
	if err := h.many.sync(ranges); err != nil {
		h.opts.Log.Warn("ranges of ports could not be held and served", "error", err)
	}
	for f := range h.ports {
		if t, ok := published.Get(f); !ok || t.Hold == nat.HoldShared || h.many.has(f) {
			h.Retire(f)
		}
	}
	defer h.shared.sync(published)
	for p := range h.each(unshared(published.All)) {
		_, known := h.retry.ports[p.Frontend]
		switch err := h.hold(p); {
		case err == nil:
			delete(h.retry.ports, p.Frontend)
		case !known:
			h.scheduleRetry(p.Frontend)
			h.opts.Log.Warn("mapping has no proxy", "mapping", p.Mapping().String(), "error", h.bindError(p, 1, err))
		}
	}
}

// Retire gives a port back. TCP connections of its proxy go on, like those that netfilter
// translates.
func (h *Holder) Retire(f portset.Frontend) {
	h.logEnd(f, h.release(f, proxy.Proxy.Retire))
}

func (h *Holder) logEnd(f portset.Frontend, err error) {
	if err != nil {
		h.opts.Log.Warn("proxy could not be closed cleanly", "frontend", f.AddrPort, "error", err)
	}
}

// release gives a port back; end ends its proxy.
func (h *Holder) release(f portset.Frontend, end func(proxy.Proxy) error) error {
	delete(h.retry.ports, f)
	p, ok := h.ports[f]
	delete(h.ports, f)
	switch {
	case !ok:
		return nil
	case p.proxy != nil:
		return end(p.proxy)
	}
	return p.socket.Close()
}

// bind takes a port. Its socket answers nothing until serve.
func (h *Holder) bind(f portset.Frontend) (err error) {
	if _, ok := h.ports[f]; ok {
		return nil
	}
	s := h.inherited[f]
	delete(h.inherited, f)
	if s == nil {
		bind := func() error {
			s, err = proxy.Bind(socketAddr(f.Proto, f.AddrPort), h.options(f))
			return err
		}
		for range 3 { // a new flow may take the port once more
			if err = bind(); !errors.Is(err, unix.EADDRINUSE) || !h.many.makeRoom(f) {
				break
			}
		}
		if err != nil {
			return errors.Join(err, h.many.leadAgain(f))
		}
	}
	h.ports[f] = held{socket: s}
	return nil
}

func (h *Holder) options(f portset.Frontend) *proxy.Options {
	o := &proxy.Options{Group: h.group, V6Only: f.AddrPort.Addr() == netip.IPv6Unspecified(), FreeBind: true}
	if h.many.has(f) {
		o.BeforeBind = h.beforeBind()
	} else {
		o.BeforeBind = h.opts.Exempt
	}
	return o
}

// socketOptions are those of the sockets that serve ranges.
func (h *Holder) socketOptions() *proxy.Options {
	return &proxy.Options{Group: h.group, BeforeBind: h.beforeBind()}
}

// beforeBind lets sockets of the Holder bind ports that a guard keeps from others. Nil: there is no guard.
func (h *Holder) beforeBind() func(int) error {
	guard, former := h.opts.Guard, h.opts.Exempt
	switch {
	case guard == nil:
		return former
	case former == nil:
		return guard.Exempt
	}
	return func(socket int) error { return errors.Join(former(socket), guard.Exempt(socket)) }
}

func socketAddr(proto nat.Proto, ap netip.AddrPort) net.Addr {
	if proto == nat.UDP {
		return net.UDPAddrFromAddrPort(ap)
	}
	return net.TCPAddrFromAddrPort(ap)
}

// serve opens a proxy on a port that was bound, or makes its socket refuse clients if the
// mapping has no proxy.
func (h *Holder) serve(p portset.Port) error {
	s := h.ports[p.Frontend].socket
	if s == nil {
		return nil
	}
	if p.NoProxy {
		return s.Refuse()
	}
	px, err := s.Proxy(socketAddr(p.Proto, p.Backend), h.options(p.Frontend))
	if err != nil {
		return err
	}
	h.ports[p.Frontend] = held{proxy: px}
	if h.waiting {
		return nil
	}
	return px.Open()
}

// hold binds and serves a port, if it is not bound or served already.
func (h *Holder) hold(p portset.Port) error {
	if isShared(&p) {
		return h.shared.open(p)
	}
	if h.many.has(p.Frontend) {
		return h.many.admit(p)
	}
	if px := h.ports[p.Frontend].proxy; px != nil {
		if px.BackendAddr().String() == p.Backend.String() && !p.NoProxy {
			return nil
		}
		return h.move(portset.Move{Frontend: p.Frontend, To: p.Target}, proxy.Proxy.Retire)
	}
	if err := h.bind(p.Frontend); err != nil {
		return err
	}
	return h.serve(p)
}

// move gives the port of a mapping another backend, and a proxy or none. end ends a proxy
// that is no longer wanted.
func (h *Holder) move(m portset.Move, end func(proxy.Proxy) error) error {
	if px := h.ports[m.Frontend].proxy; px != nil && !m.To.NoProxy {
		if m.From.Backend == m.To.Backend {
			return nil // SetBackend would end its flows
		}
		return px.SetBackend(socketAddr(m.Proto, m.To.Backend))
	}
	if m.From.NoProxy == m.To.NoProxy {
		return nil
	}
	if m.To.NoProxy {
		// The proxy does not return its socket: the port is free for a moment.
		if err := h.release(m.Frontend, end); err != nil {
			return err
		}
		if err := h.bind(m.Frontend); err != nil {
			return err
		}
	}
	return h.serve(m.After())
}

// bindError explains an error of binding one of so many ports: which process has the
// port, or which limit to raise.
func (h *Holder) bindError(p portset.Port, count int, err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return h.opts.Owner(p)
	case errors.Is(err, unix.EMFILE):
		return fmt.Errorf("hold %d ports: %w: raise RLIMIT_NOFILE (LimitNOFILE= of a unit)", count, err)
	case errors.Is(err, unix.ENFILE):
		return fmt.Errorf("hold %d ports: %w: raise fs.file-max", count, err)
	}
	return fmt.Errorf("hold %s: %w", nat.DescribeFrontend(p.Mapping()), err)
}
