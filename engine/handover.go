// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// An engine can hand what it holds to one of another process, and nobody notices:
//
//	the old engine                      the new one
//	Suspend: sockets are lent
//	                                    Open with Options.Sockets
//	Leave, Shutdown                     Begin
//
// Until Begin the new engine's proxies take nothing, and until Leave the old one's serve.
// If the new engine comes to nothing, the old one's Resume takes up where Suspend left off.

// Sockets are what an engine holds against other processes, on their way to an engine of
// another one. The descriptors stay those of the engine that lends them. The zero value is
// none at all.
type Sockets struct {
	// Lock is the lock of the table; zero: it is not among them.
	Lock int
	// Ports are those of frontends, a socket each.
	Ports []PortSocket
}

func (s *Sockets) ports(yield func(portset.Frontend, int) bool) {
	for _, p := range s.Ports {
		if !yield(portset.Frontend{Proto: p.Proto, AddrPort: p.Frontend}, p.FD) {
			return
		}
	}
}

// PortSocket is the socket that holds one port of a frontend.
type PortSocket struct {
	Proto nat.Proto
	// Frontend is as in a Mapping: without an address for any.
	Frontend netip.AddrPort
	FD       int
}

// Suspend lends what the engine holds and lets go of the kernel's table, so that the
// engine of another process can take it over. Its proxies go on to serve, and its methods
// return ErrClosed, but for Resume, Leave, Shutdown and Close. It waits for the change
// that is being made; Run has to have returned.
//
// Whoever takes over may change the table, and the Store: if that has a lock, the caller
// has to give it up.
func (e *Engine) Suspend(ctx context.Context) (Sockets, error) {
	return update(ctx, e, e.suspend)
}

func (e *Engine) suspend() (Sockets, error) {
	lock, err := e.lock.FD()
	if err != nil {
		return Sockets{}, fmt.Errorf("lend lock of table %s: %w", e.opts.Table, err)
	}
	s := Sockets{Lock: lock}
	for f, fd := range e.holder.Lend {
		s.Ports = append(s.Ports, PortSocket{f.Proto, f.AddrPort, fd})
	}
	e.closed, e.suspended = true, true
	return s, e.closeKernelSockets()
}

// Resume takes the table up again after a Suspend: it adopts what it finds, as Open does.
// After an error the engine is suspended as before, and Resume can be called again.
func (e *Engine) Resume(ctx context.Context) error {
	if err := e.mu.lockContext(ctx); err != nil {
		return err
	}
	defer e.mu.Unlock()
	if !e.suspended {
		return nat.ErrClosed
	}
	if err := e.takeUp(ctx); err != nil {
		return errors.Join(fmt.Errorf("resume: %w", err), e.closeKernelSockets())
	}
	e.closed, e.suspended = false, false
	return nil
}

func (e *Engine) takeUp(ctx context.Context) error {
	// Whoever asks the lock is to be told of this process again.
	if err := e.lock.Sign(); err != nil {
		return err
	}
	if err := e.table.Reopen(); err != nil {
		return err
	}
	if err := e.openSockets(); err != nil {
		return err
	}
	e.reconciled = false
	if err := e.load(); err != nil {
		return err
	}
	if err := e.adopt(ctx); err != nil {
		return err
	}
	return e.reconcile(ctx)
}

// Leave gives up what a suspended engine has lent, for another process has it now: ports
// that it holds are held by that one alone when it returns, but for UDP ports, whose
// proxies pass answers on for another second, and ten at most. Nothing that clients can
// see happens. Shutdown must follow, and waits for the connections.
func (e *Engine) Leave() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.suspended {
		return nat.ErrClosed
	}
	e.holder.Leave()
	err := e.lock.Close()
	e.lock = nil
	return err
}

// Carried is how many connections and UDP flows the proxies of a suspended engine carry.
func (e *Engine) Carried() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, _, _ := e.holder.Stats()
	return s.Live
}

// Begin has the proxies of an engine that was opened with Sockets serve, which they do not
// before: the process that lent the sockets does. What it was not lent for any mapping is
// closed. The error is of proxies that do not serve; all others do.
func (e *Engine) Begin() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nat.ErrClosed
	}
	return e.holder.Begin()
}

// takeSockets takes the lock of the table and, if there are any, the sockets that another
// process has lent.
func (e *Engine) takeSockets(ctx context.Context) (err error) {
	lent := e.opts.Sockets
	e.opts.Sockets = nil // each is this engine's now, or closed
	if e.opts.ReadOnly {
		return closeSockets(lent)
	}
	if e.holder != nil && lent != nil {
		if err := e.holder.Inherit(lent.ports); err != nil {
			e.log.Warn("not all sockets could be taken over", "error", err)
		}
		lent = &Sockets{Lock: lent.Lock}
	}
	if lent == nil || lent.Lock == 0 {
		e.lock, err = hostnet.LockTable(ctx, e.namespace, e.opts.Table, e.opts.LockWait)
		return errors.Join(err, closeSockets(lent))
	}
	e.lock, err = hostnet.TakeLock(lent.Lock)
	return errors.Join(err, closeSockets(&Sockets{Ports: lent.Ports}))
}

// closeSockets closes what nobody takes.
func closeSockets(lent *Sockets) error {
	if lent == nil {
		return nil
	}
	var errs []error
	if lent.Lock != 0 {
		errs = append(errs, os.NewSyscallError("close", unix.Close(lent.Lock)))
	}
	for _, p := range lent.Ports {
		errs = append(errs, os.NewSyscallError("close", unix.Close(p.FD)))
	}
	return errors.Join(errs...)
}
