// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portholder

import (
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/proxy"
)

// Lend yields the descriptors of the sockets that hold ports. They still belong to the
// Holder.
func (h *Holder) Lend(yield func(portset.Frontend, int) bool) {
	for f, p := range h.ports {
		var fd int
		if p.proxy != nil {
			fd = p.proxy.Descriptor()
		} else {
			fd = p.socket.Descriptor()
		}
		if fd >= 0 && !yield(f, fd) {
			return
		}
	}
	for l, px := range h.shared.proxies {
		if fd := px.Descriptor(); fd >= 0 && !yield(l.Frontend, fd) {
			return
		}
	}
	for proto, px := range h.many.proxies { // of no port
		if fd := px.Descriptor(); fd >= 0 && !yield(portset.Frontend{Proto: proto}, fd) {
			return
		}
	}
}

// Leave closes the sockets that were lent, because another process holds them now.
// Connections of the proxies go on; Shutdown waits for them. See [proxy.Group.Leave].
func (h *Holder) Leave() {
	for f, p := range h.ports {
		if p.socket != nil {
			_ = p.socket.Close() // closing a descriptor, which has no error
			delete(h.ports, f)
		}
	}
	h.group.Leave()
}

// Inherit takes the sockets that another process has lent, to bind their ports with.
// Proxies do not serve until Begin. The error is about sockets that do not hold the port
// that they are said to hold; they are closed.
func (h *Holder) Inherit(lent iter.Seq2[portset.Frontend, int]) error {
	h.waiting = true
	h.inherited = map[portset.Frontend]*proxy.Socket{}
	var errs []error
	for f, fd := range lent {
		s, err := proxy.NewSocket(fd)
		if err != nil {
			errs = append(errs, fmt.Errorf("take %s %s: %w", f.Proto, f.AddrPort, err), os.NewSyscallError("close", unix.Close(fd)))
			continue
		}
		if f.AddrPort.Port() == 0 && h.many.inherited[f.Proto] == nil {
			h.many.inherited[f.Proto] = s
			continue
		}
		if l, ok := localOf(s.Addr(), f); ok && h.shared.inherited[l] == nil {
			h.shared.inherited[l] = s
			continue
		}
		if !isOf(s.Addr(), f) || h.inherited[f] != nil {
			errs = append(errs, fmt.Errorf("take %s %s: the socket is %s %s", f.Proto, f.AddrPort, s.Addr().Network(), s.Addr()), s.Close())
			continue
		}
		h.inherited[f] = s
	}
	return errors.Join(errs...)
}

// localOf reports whether a socket at an address is that of a proxy of a shared port.
func localOf(a net.Addr, f portset.Frontend) (l Local, ok bool) {
	ap, err := netip.ParseAddrPort(a.String())
	l = Local{f, ap.Addr().Is4()}
	return l, err == nil && a.Network() == f.Proto.String() && ap.Port() != f.AddrPort.Port() && ap.Addr() == loopbackOf(l.Is4)
}

// Give takes a socket that is bound to a port which is about to be held, in the place of one that
// the Holder would bind. The Holder owns the descriptor, also after an error. HoldGiven must follow.
func (h *Holder) Give(f portset.Frontend, fd int) error {
	// Whoever bound it may not have meant it for an event loop.
	s, err := proxy.NewSocket(fd)
	if err != nil {
		return errors.Join(err, os.NewSyscallError("close", unix.Close(fd)))
	}
	if !isOf(s.Addr(), f) || h.inherited[f] != nil {
		return errors.Join(&nat.InvalidError{What: "socket", Input: s.Addr().Network() + " " + s.Addr().String(),
			Reason: "it is not that of the frontend"}, s.Close())
	}
	if h.inherited == nil {
		h.inherited = map[portset.Frontend]*proxy.Socket{}
	}
	h.inherited[f] = s
	return nil
}

// HoldGiven holds published ports by sockets that were given and that no change has taken, because
// the port was published already while somebody else had it. It closes the others.
func (h *Holder) HoldGiven(published *portset.Set) {
	for f, s := range h.inherited {
		t, ok := published.Get(f)
		_, held := h.ports[f]
		if !ok || held || h.many.has(f) || t.Hold == nat.HoldShared {
			delete(h.inherited, f)
			_ = s.Close() // closing a descriptor, which has no error
			continue
		}
		p := portset.Port{Frontend: f, Target: t}
		if err := h.hold(p); err != nil {
			h.scheduleRetry(f)
			h.opts.Log.Warn("mapping has no proxy", "mapping", p.Mapping().String(), "error", h.bindError(p, 1, err))
			continue
		}
		delete(h.retry.ports, f)
	}
}

// isOf reports whether the address of a socket is that of a frontend.
func isOf(a net.Addr, f portset.Frontend) bool {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil || a.Network() != f.Proto.String() || ap.Port() != f.AddrPort.Port() {
		return false
	}
	if f.AddrPort.Addr().IsValid() {
		return ap.Addr() == f.AddrPort.Addr()
	}
	return ap.Addr().IsUnspecified() // of either family: a host may have no IPv6
}

// Begin opens the proxies that waited, and closes inherited sockets that no mapping needs.
// The error is about proxies that do not serve; all others do.
func (h *Holder) Begin() error {
	h.waiting = false
	h.opts.Exempt = nil
	errs := append(h.many.close(), h.closeInherited())
	for proto, px := range h.many.proxies {
		if err := px.Open(); err != nil {
			errs = append(errs, fmt.Errorf("open proxy of ranges of %s ports: %w", proto, err))
		}
	}
	for f, px := range h.All {
		if px == nil {
			continue
		}
		if err := px.Open(); err != nil {
			errs = append(errs, fmt.Errorf("open proxy of %s %s: %w", f.Proto, f.AddrPort, err))
		}
	}
	return errors.Join(errs...)
}

func (h *Holder) closeInherited() error {
	var errs []error
	for _, s := range h.inherited {
		errs = append(errs, s.Close())
	}
	h.inherited = nil
	for _, s := range h.shared.inherited {
		errs = append(errs, s.Close())
	}
	clear(h.shared.inherited)
	return errors.Join(errs...)
}
