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
	"github.com/nftnat/nftnat/engine/internal/portholder"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// An engine can pass its sockets to an engine of another process without an interruption:
//
//	the old engine                      the new one
//	Suspend: sockets are lent
//	                                    Open with Options.Sockets
//	Leave, Shutdown                     Begin
//
// The new engine's proxies serve from Begin on, the old one's until Leave. If the new
// engine fails, Resume of the old one continues from before Suspend.

// Sockets are the sockets that an engine lends to one of another process. The descriptors
// still belong to the engine that lends them. The zero value has none.
type Sockets struct {
	// Lock is the lock of the table; zero: there is none.
	Lock int
	// Ports hold the ports of frontends.
	Ports []PortSocket
	// Programs are the eBPF programs that serve localhost, and their maps. Nil: there are none.
	Programs []Program
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
	// Frontend is as in a Mapping: without an address for any. Without a port the socket serves
	// ranges.
	Frontend netip.AddrPort
	FD       int
}

// Suspend lends the engine's sockets and closes those to the kernel, so that the engine of
// another process can take the table over. The proxies go on. Methods other than Resume,
// Leave, Carried, Shutdown and Close return ErrClosed. Suspend waits for a change under way; Run
// must have returned.
//
// The other engine may change the table and the Store: a lock that the Store has must be
// released by the caller.
func (e *Engine) Suspend(ctx context.Context) (Sockets, error) {
	return update(ctx, e, (*core).suspend)
}

func (e *core) suspend() (Sockets, error) {
	lock, err := e.lock.FD()
	if err != nil {
		return Sockets{}, fmt.Errorf("lend lock of table %s: %w", e.opts.Table, err)
	}
	s := Sockets{Lock: lock}
	for f, fd := range e.holder.Lend {
		s.Ports = append(s.Ports, PortSocket{f.Proto, f.AddrPort, fd})
	}
	programs, err := e.programs.Hand()
	if err != nil {
		return Sockets{}, err
	}
	for _, d := range programs {
		e.lent = append(e.lent, Program(d))
	}
	s.Programs = e.lent
	e.closed, e.suspended = true, true
	return s, e.closeKernelSockets()
}

// Resume takes the table over again after Suspend, as Open does. After an error the engine
// is still suspended, and Resume can be called again. After Leave it returns ErrClosed.
func (e *Engine) Resume(ctx context.Context) error {
	if err := e.mu.lockContext(ctx); err != nil {
		return err
	}
	defer e.mu.Unlock()
	c := e.core
	if !c.suspended || c.left {
		return nat.ErrClosed
	}
	if err := errors.Join(c.closeLent(), c.takeUp(ctx)); err != nil {
		return errors.Join(fmt.Errorf("resume: %w", err), c.closeKernelSockets())
	}
	c.closed, c.suspended = false, false
	return nil
}

// closeLent closes the files of programs that were lent.
func (e *core) closeLent() error {
	err := closePrograms(e.lent)
	e.lent = nil
	return err
}

func (e *core) takeUp(ctx context.Context) error {
	// The lock names the process that signed it last.
	if err := e.lock.Sign(); err != nil {
		return err
	}
	if err := e.table.Reopen(); err != nil {
		return err
	}
	if err := e.openSockets(); err != nil {
		return err
	}
	e.stored.reconciled = false
	if err := e.load(); err != nil {
		return err
	}
	if err := e.adopt(ctx); err != nil {
		return err
	}
	if err := e.reconcile(ctx); err != nil {
		return err
	}
	e.syncLocalhost()
	e.missed = true
	e.followAtOpen(ctx)
	return nil
}

// Leave closes the sockets that a suspended engine has lent, because another process holds
// them now. UDP proxies still pass on answers until there was none for a second, for ten
// seconds at most. Clients notice nothing. Shutdown must follow, and waits for the
// connections.
func (e *Engine) Leave() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.core
	if !c.suspended || c.left {
		return nat.ErrClosed
	}
	c.left = true
	c.holder.Leave()
	err := errors.Join(c.lock.Close(), c.closeLent(), c.programs.Close())
	c.lock = nil
	return err
}

// Carried returns how many connections and UDP flows the proxies of a suspended engine
// have.
func (e *Engine) Carried() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, _, _ := e.core.holder.Stats()
	return s.Live
}

// Begin opens the proxies of an engine that was opened with Sockets. Until then, the
// proxies of the process that lent the sockets serve. Begin closes sockets that no mapping
// needs. The error is about proxies that do not serve; the others do.
func (e *Engine) Begin() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.core.closed {
		return nat.ErrClosed
	}
	e.core.borrowed = false
	return errors.Join(e.core.holder.Begin(), e.core.programs.CloseFormer())
}

// takeSockets locks the table, or takes the lock and the sockets that another process has
// lent.
func (e *core) takeSockets(ctx context.Context) (err error) {
	lent := e.opts.Sockets
	e.opts.Sockets = nil
	if e.opts.ReadOnly {
		return closeSockets(lent)
	}
	takesOver := lent != nil
	if !takesOver {
		lent = &Sockets{}
	}
	programs, ports := lent.Programs, lent.Ports
	if lent.Lock == 0 {
		e.lock, err = hostnet.LockTable(ctx, e.namespace, e.opts.Table, e.opts.LockWait)
	} else {
		e.borrowed = true
		e.lock, err = hostnet.TakeLock(lent.Lock)
	}
	if err != nil {
		return errors.Join(err, closeSockets(&Sockets{Ports: ports, Programs: programs}))
	}
	if err := e.openPrograms(programs); err != nil {
		return errors.Join(err, closeSockets(&Sockets{Ports: ports}))
	}
	if e.opts.NoProxies {
		return closeSockets(&Sockets{Ports: ports})
	}
	e.holder = portholder.New(holderOptions(e))
	if !takesOver {
		return nil
	}
	if err := e.holder.Inherit(lent.ports); err != nil {
		e.log.Warn("not all sockets could be taken over", "error", err)
	}
	return nil
}

// closeSockets closes sockets that were lent and are not taken.
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
	return errors.Join(append(errs, closePrograms(lent.Programs))...)
}
