// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/hairpin"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portholder"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/engine/internal/table"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// Engine owns one nftables table and publishes mappings in it. Its methods may be
// called at the same time; changes are made one after another.
type Engine struct {
	mu   mutex
	core *core
}

// core is an engine without a lock. The methods of Engine, and no others, lock mu, and call
// those of core while they hold it.
type core struct {
	opts  Options
	log   *slog.Logger
	table *table.Table

	namespace  *hostnet.Namespace
	lock       *hostnet.Lock
	flows      flowTable
	host       host
	forwarding *hostnet.Forwarding
	hairpins   *hairpin.Controller
	holder     *portholder.Holder // disabled if no proxies are wanted
	now        func() time.Time

	closed  bool
	closing chan struct{} // closed when closed is set
	// suspended is set between Suspend and Resume; closed is set then too. left is set by
	// Leave.
	suspended, left bool
	events          events
	// noted is the report of the call that is under way; nil: there is none.
	noted atomic.Pointer[nat.Report]
	published
	handles handles
	stored  stored
	// sooner wakes Run when a mapping expires before all others.
	sooner chan struct{}
}

// Open takes a table for this engine and adopts what it holds. The table need not
// exist; the first change makes it. Open changes nothing in the kernel, unless the
// rules of a table that is there are not what they should be, or the engine before was
// killed while it changed the hairpin mode of a bridge port: then it puts that right and
// says so in the log; or unless a Store has what the kernel has lost. Where the kernel
// can, the engine becomes the table's owner: nobody else can change the table then, as
// long as the engine is open.
//
// Errors: *OwnedError if another engine has the table; ErrForeign and ErrNewer if it
// cannot be taken over; fs.ErrPermission without CAP_NET_ADMIN; fs.ErrNotExist if
// there is no such network namespace; those of the Store.
//
// The context is for opening alone: when it is done, Open stops waiting.
func Open(ctx context.Context, opts Options) (*Engine, error) {
	opts = opts.withDefaults()
	if err := opts.validate(); err != nil {
		return nil, errors.Join(err, closeSockets(opts.Sockets))
	}
	ns, err := hostnet.OpenNamespace(opts.NetNS)
	if err != nil {
		return nil, errors.Join(err, closeSockets(opts.Sockets))
	}
	e := newEngine(opts)
	c := e.core
	c.namespace = ns
	c.forwarding = &hostnet.Forwarding{Sysctls: hostnet.Sysctls{Namespace: ns}, Interfaces: hostnet.SystemInterfaces}
	if err := c.connect(ctx); err != nil {
		return nil, errors.Join(err, c.disconnect())
	}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.disconnect())
	}
	return e, nil
}

func newEngine(opts Options) *Engine {
	e := &Engine{mu: newMutex(), core: &core{
		opts: opts, now: time.Now,
		published: newPublished(nil), sooner: make(chan struct{}, 1), closing: make(chan struct{}),
	}}
	c := e.core
	c.handles = handles{owner: e, byName: map[string]*Endpoint{}}
	c.log = slog.New(noteHandler{opts.Log.Handler(), &c.noted})
	c.hairpins = hairpin.New(hairpinHost{c}, c.log)
	c.holder = portholder.New(portholder.Options{})
	c.table = table.New(table.Config{
		Rules:        schema.Ruleset(opts.Table),
		Dial:         func() (table.Kernel, error) { return nft.Dial(&nft.Config{NetNS: c.namespace.FD()}) },
		CheckComment: func(comment string) error { return schema.CheckComment(opts.Table, comment) },
		ReadOnly:     opts.ReadOnly, NoOwner: opts.NoOwner, AsFound: opts.AsFound, Log: c.log,
	})
	return e
}

// connect takes the lock and opens the sockets.
func (e *core) connect(ctx context.Context) error {
	if !e.opts.ReadOnly && !e.opts.NoProxies {
		e.holder = portholder.New(holderOptions(e))
	}
	if err := e.takeSockets(ctx); err != nil {
		return err
	}
	if err := e.table.Open(); err != nil {
		return err
	}
	return e.openSockets()
}

// openSockets opens the sockets by which the kernel is asked, but for that of the table.
func (e *core) openSockets() error {
	f, err := conntrack.Dial(&conntrack.Config{NetNS: e.namespace.FD()})
	if err != nil {
		return err
	}
	e.flows = f
	h, err := hostnet.OpenRoutes(e.namespace)
	if err != nil {
		return err
	}
	e.host = h
	if e.opts.ReadOnly {
		return nil
	}
	return e.hairpins.Open(e.forwarding.Sysctls)
}

// start reads what there is to know before the first change.
func (e *core) start(ctx context.Context) error {
	reserved, err := e.forwarding.Sysctls.ReservedPorts()
	if err != nil {
		return err
	}
	ports, err := portset.NewReservations(e.opts.FirstPort, e.opts.LastPort)
	if err != nil {
		return err
	}
	for _, r := range reserved {
		if err := ports.Avoid(r.First, r.Last); err != nil {
			return err
		}
	}
	e.published = newPublished(ports)
	if err := e.table.ChooseOwner(); err != nil {
		return err
	}
	if err := e.load(); err != nil {
		return err
	}
	if err := e.adopt(ctx); err != nil || e.opts.ReadOnly {
		return err
	}
	if err := e.reconcile(ctx); err != nil {
		return err
	}
	// The engine before this one may have been killed between its last transaction
	// and the flows.
	return e.deleteStrayFlows()
}

func holderOptions(e *core) portholder.Options {
	return portholder.Options{
		Namespace: e.namespace, Log: e.log, Now: func() time.Time { return e.now() },
		Owner: e.findHolder, Progress: e.report,
		PipeFailed: func(err error) { e.opts.Log.Warn("proxies copy bulk data instead of splicing", "error", err) },
	}
}

// deleteStrayFlows ends all UDP flows to frontends that lead elsewhere than the
// mappings do.
func (e *core) deleteStrayFlows() error {
	var live portset.Change
	for p := range e.mappings.All {
		if p.Proto == nat.UDP {
			live.Added = append(live.Added, p)
		}
	}
	return e.deleteFlows(nat.UDP, live)
}

func (e *core) disconnect() error {
	return errors.Join(e.holder.Close(), e.closeKernelSockets(), e.lock.Close(), e.namespace.Close())
}

// closeKernelSockets closes the sockets by which the kernel is asked, as far as they are open.
func (e *core) closeKernelSockets() error {
	errs := []error{e.table.Close()}
	if e.flows != nil {
		errs = append(errs, e.flows.Close())
		e.flows = nil
	}
	if e.host != nil {
		e.host.Close()
		e.host = nil
	}
	return errors.Join(append(errs, e.hairpins.Close())...)
}

// Close gives the table up and leaves it, with all mappings working, to the next
// engine. Closing again returns ErrClosed.
func (e *Engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.core
	if c.closed && !c.suspended {
		return nat.ErrClosed
	}
	c.end()
	return c.disconnect()
}

func (e *core) end() {
	e.closed, e.suspended = true, false
	close(e.closing)
}

// Purge deletes the table with all mappings, ends the flows to their backends over
// UDP, puts bridge ports back that were given hairpin mode, and closes the engine. A
// table that is not there is no error. What else of the host was changed, IP forwarding,
// stays: others may need it by now.
//
// If the table cannot be deleted, nothing has changed and the engine stays open. If
// the flows cannot be ended, the table is gone and the engine closed all the same.
func (e *Engine) Purge(ctx context.Context) error {
	_, err := update(ctx, e, func(c *core) (struct{}, error) { return struct{}{}, c.purge(ctx) })
	return err
}

func (e *core) purge(ctx context.Context) error {
	if err := e.resync(ctx); err != nil {
		return err
	}
	undo := undoList{e.hairpins.Purge()}
	if e.opts.Store != nil {
		// Before the table goes, so that nothing comes back if this is all that happens.
		if err := e.opts.Store.Save(nat.StoredState{}); err != nil {
			return undo.after(err)
		}
		undo.add(func() error { return e.save(e.state()) })
	}
	if err := e.table.Delete(); err != nil {
		return undo.after(err)
	}
	err := e.deleteFlows(nat.UDP, portset.Change{Removed: slices.Collect(e.mappings.All)})
	e.end()
	return errors.Join(err, e.disconnect())
}

// writable reports why nothing can be changed, if so, and lets go of what has ended.
func (e *core) writable() error {
	if e.closed {
		return nat.ErrClosed
	}
	if e.opts.ReadOnly {
		return nat.ErrReadOnly
	}
	e.forget(e.now())
	return nil
}

// Mappings returns all mappings that are published now, in the order of Compare, each of
// a single port; Collapse makes ranges of them.
func (e *Engine) Mappings(ctx context.Context) ([]nat.Mapping, error) {
	return view(ctx, e, func(c *core) ([]nat.Mapping, error) { return sortedMappings(c.mappings.All, c.mappings.Len()), nil })
}

// sortedMappings are the mappings of up to so many ports, in the order of Compare.
func sortedMappings(ports iter.Seq[portset.Port], count int) []nat.Mapping {
	all := make([]nat.Mapping, 0, count)
	for p := range ports {
		all = append(all, p.Mapping())
	}
	slices.SortFunc(all, nat.Compare)
	return all
}

// put notes that a port is published.
func (e *core) put(p portset.Port) {
	e.mappings.Put(p)
	e.expect(p)
}

// expect wakes Run if no port ends sooner than this one.
func (e *core) expect(p portset.Port) {
	if e.expiries.Add(p, &e.mappings) {
		e.wakeRun()
	}
}

// removePort notes that a port is no longer published, and releases it.
func (e *core) removePort(p portset.Port) {
	e.published.remove(p)
	e.holder.Retire(p.Frontend)
}

// forget drops the mappings whose time is over: the kernel has dropped them by its
// own clock.
func (e *core) forget(now time.Time) {
	var over []portset.Port
	for {
		p, ok := e.expiries.Pop(now, &e.mappings)
		if !ok {
			break
		}
		e.removePort(p)
		e.countPort(p, -1)
		over = append(over, p)
	}
	if len(over) != 0 {
		e.events.counts.Expired += len(over)
		e.send(nat.EventExpired, portset.Collapse(over)...)
	}
}
