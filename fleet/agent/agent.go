// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/fleet/desired"
	"github.com/nftnat/nftnat/fleet/float"
	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/space"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/internal/startmemory"
	"github.com/nftnat/nftnat/nat"
)

// Options say for which host an agent is.
type Options struct {
	// Store says where etcd is.
	Store store.Options
	// Host is the name of the host, which no other has. Required.
	Host string
	// Groups are those that it is in.
	Groups []string
	// Daemon is that of the host. Required.
	Daemon *api.Client
	// StateFile keeps the lease and the newest revision from one start to the next. Empty: nothing is
	// kept, so that an agent that is started again waits for its own old lease to end.
	StateFile string
	// TTL is how long etcd takes the agent for alive without an answer. Zero: 5 s.
	TTL time.Duration
	// Version is that of the program.
	Version string
	// Listener is where the commands of this host lease from shared networks; it is closed. Nil: nowhere.
	Listener net.Listener
	// Log is where it says what it does. Nil: nowhere.
	Log *slog.Logger
	// Doctor is how often the daemon's doctor is asked, beside each time that something was applied. Zero: 5 min.
	Doctor time.Duration
}

// part is what else an agent runs.
type part interface {
	Update(u store.Update)
	Run(ctx context.Context) error
}

// agent is what Run runs.
type agent struct {
	Options
	file     *stateFile
	store    *store.Store
	desired  *desired.Reconciler
	floats   *float.Manager
	spaces   *space.Manager
	address  string
	instance string

	memory  startmemory.Memory
	listed  atomic.Bool   // all was listed since the daemon was asked last
	work    chan struct{} // there is something for the daemon
	changed chan struct{} // the status may be different

	mu      sync.Mutex
	session *store.Session // that has the host's key; nil: none
	doctor  []string
	written string // the status that etcd has under the session, but for its time
}

// Run runs an agent until ctx is done. The error is nat.ErrConflict if another agent has the host's name,
// and nat.ErrInvalid for options that cannot be.
func Run(ctx context.Context, o Options) error {
	if err := keys.ValidateName("host", o.Host); err != nil {
		return err
	}
	for _, g := range o.Groups {
		if err := keys.ValidateName("group", g); err != nil {
			return err
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.TTL == 0 {
		o.TTL = 5 * time.Second
	}
	if o.Doctor == 0 {
		o.Doctor = 5 * time.Minute
	}
	file, err := openState(o.StateFile)
	if err != nil {
		return err
	}
	defer file.close()
	a := &agent{Options: o, memory: startmemory.Find(), file: file, instance: file.Instance, work: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
	if err := a.open(ctx); err != nil {
		return err
	}
	defer a.store.Close()
	if err := a.claim(ctx); err != nil {
		return err
	}
	a.Log.Info("the host is in the fleet", "host", a.Host, "groups", a.Groups, "address", a.address)
	return a.serve(ctx)
}

// open opens the store, as soon as one member answers.
func (a *agent) open(ctx context.Context) error {
	o := a.Store
	o.Seen = a.file.Seen
	dial := o.Dial
	if dial == nil {
		dial = func(ctx context.Context, address string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		}
	}
	o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
		c, err := dial(ctx, address)
		if err == nil {
			a.mu.Lock()
			a.address, _, _ = net.SplitHostPort(c.LocalAddr().String())
			a.mu.Unlock()
		}
		return c, err
	}
	return a.until(ctx, "etcd cannot be used; nothing is withdrawn", func() (err error) {
		a.store, err = store.Open(ctx, o)
		return err
	})
}

// until calls f until it succeeds, or fails for good. It logs each new reason.
func (a *agent) until(ctx context.Context, what string, f func() error) error {
	logged := ""
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 3*time.Second) {
		err := f()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, nat.ErrInvalid), errors.Is(err, nat.ErrConflict), errors.Is(err, store.ErrClosed):
			return err
		}
		if text := err.Error(); text != logged {
			logged = text
			a.Log.Warn(what, "error", strings.ReplaceAll(text, "\n", "; "))
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// serve runs all parts until ctx is done or one of them fails.
func (a *agent) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.desired = desired.New(desired.Options{
		Host: a.Host, Groups: a.Groups, Daemon: a.Daemon, Log: a.Log,
		Elsewhere: func(addr netip.Addr) bool { return a.floats.Floats(addr) && !a.floats.Holds(addr) },
	})
	a.floats = float.New(float.Options{Store: a.store, Host: a.Host, Groups: a.Groups, Log: a.Log, Apply: a.applyFloats})
	a.spaces = space.New(space.Options{Store: a.store, Host: a.Host, Daemon: a.Daemon, Log: a.Log})
	parts := []func(context.Context) error{a.hold, a.follow, a.apply, a.watchDaemon, a.report, a.floats.Run, a.spaces.Run}
	if a.Listener != nil {
		parts = append(parts, func(ctx context.Context) error { return a.spaces.Serve(ctx, a.Listener) })
	}
	errs := make(chan error, len(parts))
	for _, run := range parts {
		go func() {
			err := run(ctx)
			cancel()
			errs <- err
		}()
	}
	a.floats.Session(a.current())
	var first error
	for range parts {
		if err := <-errs; first == nil || errors.Is(first, context.Canceled) {
			first = err
		}
	}
	a.leave(context.WithoutCancel(ctx))
	return first
}

// follow passes what etcd has to the parts.
func (a *agent) follow(ctx context.Context) error {
	away := false
	// Not the statuses, which each of a hundred agents would be told of by all others.
	return a.store.FollowBefore(ctx, keys.Statuses, func(u store.Update) error {
		if u.Err != nil {
			if !away {
				a.Log.Warn("etcd is away; nothing is withdrawn, and what changes waits", "error", u.Err)
			}
			away = true
			return nil
		}
		switch {
		case u.Restored:
			a.Log.Error("etcd was restored from an older snapshot: what was written since is gone; all is listed and checked anew", "revision", u.Revision)
		case u.Whole && away:
			a.Log.Info("etcd is back", "revision", u.Revision)
		}
		away = false
		if u.Whole {
			a.listed.Store(true)
		}
		if a.desired.Update(u) {
			a.wake()
		}
		for _, p := range []part{a.floats, a.spaces} {
			p.Update(u)
		}
		a.file.note(a.store.Seen())
		if u.Whole {
			a.poke()
		}
		return nil
	})
}

func (a *agent) wake() {
	select {
	case a.work <- struct{}{}:
	default:
	}
}

func (a *agent) poke() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// apply makes the daemon have what is desired.
func (a *agent) apply(ctx context.Context) error {
	const least, most = 100 * time.Millisecond, 2 * time.Second
	wait := least
	retry := time.NewTicker(time.Minute)
	defer retry.Stop()
	for {
		again := (<-chan time.Time)(nil)
		if err := a.desired.Step(ctx); err != nil && ctx.Err() == nil {
			again = time.After(wait)
			wait = min(2*wait, most)
		} else {
			wait = least
		}
		a.poke()
		if a.listed.Swap(false) { // what a list takes is garbage now
			a.memory.GiveBack()
		}
		select {
		case <-a.work:
		case <-again:
		case <-retry.C: // what was refused, and what no event told of
			a.desired.Retry()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// applyFloats is asked by the floating addresses.
func (a *agent) applyFloats(ctx context.Context) error {
	a.desired.Floats(a.floats.Floats)
	if err := a.desired.Step(ctx); err != nil {
		a.wake()
		return err
	}
	a.poke()
	return a.desired.Refused(func(addr netip.Addr) bool { return a.floats.Holds(addr) })
}

// watchDaemon passes on what happens in the daemon.
func (a *agent) watchDaemon(ctx context.Context) error {
	const least, most = 100 * time.Millisecond, 2 * time.Second
	for wait := least; ctx.Err() == nil; wait = min(2*wait, most) {
		events, err := a.Daemon.RangeEvents(ctx)
		if err == nil {
			wait = least
			a.desired.Retry() // whatever happened before
			a.wake()
			for e, err := range events {
				if err != nil {
					break
				}
				if a.desired.Event(e) {
					a.wake()
				}
			}
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// name of the agent for others.
func (a *agent) describe() keys.Agent {
	a.mu.Lock()
	defer a.mu.Unlock()
	return keys.Agent{Instance: a.instance, Address: a.address, PID: os.Getpid(), Boot: bootID(), Groups: a.Groups, Version: a.Version}
}

// TakenError is the error when another agent has the name of the host. It is nat.ErrConflict.
type TakenError struct {
	Host string
	By   keys.Agent
}

// Error says where the other one is.
func (e *TakenError) Error() string {
	return fmt.Sprintf("another agent has the name %q: that at %s, process %d", e.Host, e.By.Address, e.By.PID)
}

// Unwrap is nat.ErrConflict.
func (e *TakenError) Unwrap() error { return nat.ErrConflict }
