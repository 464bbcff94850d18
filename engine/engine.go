// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/hairpin"
	"github.com/nftnat/nftnat/engine/internal/hooks"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/ipam"
	"github.com/nftnat/nftnat/engine/internal/portholder"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/rivals"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/engine/internal/table"
	"github.com/nftnat/nftnat/internal/logbound"
	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// Engine owns one nftables table and publishes mappings in it. Its methods may be
// called at the same time; changes are made one after another.
type Engine struct {
	mu   mutex
	core *core
}

// core is an engine without a lock. Methods of Engine lock mu and call methods of core,
// which never lock.
type core struct {
	opts  Options
	log   *slog.Logger
	table *table.Table

	namespace *hostnet.Namespace
	lock      *hostnet.Lock
	flows     flowTable
	host      host
	policy    policy // nil: it is not looked at
	// sourced is whether there are rules for some sources, when they were looked at last.
	sourced bool
	// ended are the addresses of this host whose flows were ended because proxies serve them.
	ended map[netip.Addr]struct{}
	// rivals reads what other tables translate. Nil: nothing is read.
	rivals *rivals.Reader
	// older are the base chains that were there when this engine created its table.
	older      olderChains
	forwarding *hostnet.Forwarding
	hairpins   *hairpin.Controller
	holder     *portholder.Holder // disabled if no proxies are wanted
	programs   hooks.Programs
	// localhostStale is whether localhost may be led elsewhere than to what is published.
	localhostStale bool
	noDestroy      bool // the kernel ends no sockets of others
	// shared are what the table has of shared ports.
	shared sharedPorts
	// given are the ports of the call under way that a program has passed, which serves them until then.
	given []portset.Frontend
	// listConnections calls a function with the TCP connections of this host at some ports.
	listConnections func(hostnet.PortRange, func(hostnet.Connection)) error
	now             func() time.Time
	// ways are the routes to backends when the host was last looked at.
	ways hostnet.RouteMap
	// swept is when the flows of expired ports were last ended, and slowest the time of the
	// slowest transaction: see endExpired.
	swept   time.Time
	slowest time.Duration

	lifecycle
	events events
	// noted is the report of the call under way; nil: none is wanted.
	noted atomic.Pointer[nat.Report]
	published
	handles handles
	stored  stored
	// local are the addresses of the host when it was looked at last; nil: it was not, or
	// what has happened since is not known. touched are those that went since then, and may have
	// come back.
	local, touched addresses
	// missed is whether others may have come and gone since then.
	missed bool
	// missing are the settings without which it was not forwarded then, with NoSysctl.
	missing []hostnet.Setting
	// looks is how often follow has looked at the host.
	looks int
	// watching is whether Run watches the host.
	watching bool
	// sooner wakes Run when a mapping expires before all others.
	sooner chan struct{}
}

// lifecycle is whether an engine can be used.
type lifecycle struct {
	closed  bool
	closing chan struct{} // closed when closed is set for good
	// suspended is set between Suspend and Resume; closed is set then too. left is set by
	// Leave.
	suspended, left bool
	// lent are files of programs between Suspend and Leave or Resume.
	lent []Program
	// borrowed is whether another engine has lent the lock, and may still resume: until Begin.
	borrowed bool
}

// Open locks a table for this engine and adopts its contents. The table need not exist;
// the first change creates it. Open changes the kernel in three cases, which it logs: the
// table is damaged; an engine was killed while it changed the hairpin mode of a bridge
// port or ended flows; or a Store has mappings that the kernel has lost. It also deletes
// UDP flows that contradict the mappings. Where the kernel can, the engine becomes the
// owner of the table, which other programs cannot change then.
//
// Errors: *OwnedError if another engine has the table; ErrForeign and ErrNewer if it
// cannot be taken over; fs.ErrPermission without CAP_NET_ADMIN; fs.ErrNotExist if
// there is no such network namespace; those of the Store.
//
// The context is only for the opening: when it is done, Open stops waiting.
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
	c.forwarding = c.newForwarding(hostnet.Sysctls{Namespace: ns})
	c.rivals = rivals.NewReader(ns.FD(), opts.Table)
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
		published: newPublished(nil), sooner: make(chan struct{}, 1), lifecycle: lifecycle{closing: make(chan struct{})},
	}}
	c := e.core
	c.handles = handles{owner: e, byName: map[string]*Endpoint{}}
	c.log = slog.New(noteHandler{opts.Log.Handler(), &c.noted})
	c.listConnections = func(at hostnet.PortRange, f func(hostnet.Connection)) error {
		return hostnet.Connections(c.namespace, at, f)
	}
	// What has ports published, and again, makes the same lines each time.
	c.hairpins = hairpin.New(hairpinHost{c}, slog.New(noteHandler{logbound.Repeated(opts.Log.Handler()), &c.noted}))
	c.holder = portholder.New(portholder.Options{})
	c.table = table.New(table.Config{
		Rules:        schema.Ruleset(opts.Table),
		Dial:         func() (table.Kernel, error) { return nft.Dial(&nft.Config{NetNS: c.namespace.FD()}) },
		CheckComment: func(comment string) error { return schema.CheckComment(opts.Table, comment) },
		Exempts:      schema.Exempts,
		ReadOnly:     opts.ReadOnly, NoOwner: opts.NoOwner, AsFound: opts.AsFound, Log: c.log,
	})
	return e
}

func (e *core) newForwarding(s hostnet.Sysctls) *hostnet.Forwarding {
	return &hostnet.Forwarding{Sysctls: s, Interfaces: func() ([]hostnet.Interface, error) { return e.host.Interfaces() }}
}

// connect takes the lock and opens the sockets.
func (e *core) connect(ctx context.Context) error {
	if err := e.takeSockets(ctx); err != nil {
		return err
	}
	if err := e.table.Open(); err != nil {
		return err
	}
	return e.openSockets()
}

// openSockets opens the sockets to the kernel other than that of the table.
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
	p, err := hostnet.OpenPolicy(e.namespace)
	if err != nil {
		return err
	}
	e.policy = p
	if !e.opts.NoSysctl {
		if err := e.forwarding.Watch(); err != nil {
			return err
		}
	}
	return e.hairpins.Open(e.forwarding.Sysctls)
}

// start loads the table, and restores from the store.
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
	if err := e.table.DeleteStandIn(); err != nil {
		return err
	}
	if err := e.reconcile(ctx); err != nil {
		return err
	}
	// The engine before this one may have been killed between its last transaction
	// and the flows.
	if err := e.deleteStrayFlows(); err != nil {
		return err
	}
	e.followAtOpen(ctx)
	return nil
}

func holderOptions(e *core) portholder.Options {
	o := portholder.Options{
		Namespace: e.namespace, Log: e.log, Now: func() time.Time { return e.now() },
		Owner: e.findHolder, Progress: e.report,
		PipeFailed: func(err error) { e.opts.Log.Warn("proxies copy bulk data instead of splicing", "error", err) },
		Clients:    hostnet.Sysctls{Namespace: e.namespace}.ClientPorts,
	}
	if e.programs.Hold != nil {
		o.Guard = e.programs.Hold
	}
	if former := e.programs.Former; former != nil {
		o.Exempt = func(socket int) error {
			_ = former.Exempt(socket) // if bind(2) fails then, it is tried again
			return nil
		}
	}
	if e.programs.Lookup != nil {
		o.Lookup = e.programs.Lookup
	}
	return o
}

// deleteStrayFlows deletes UDP flows that lead elsewhere than the mapping of their
// frontend, and flows that contradict its options.
func (e *core) deleteStrayFlows() error {
	var live portset.Change
	for p := range e.mappings.All {
		if p.Proto == nat.UDP {
			live.Added = append(live.Added, p)
		}
	}
	options := e.withOptions()
	return errors.Join(e.deleteFlows(nat.UDP, live), e.deleteOptionFlows(&options, false))
}

func (e *core) disconnect() error {
	return errors.Join(e.closeLent(), e.programs.Close(), e.holder.Close(), e.closeKernelSockets(), e.lock.Close(), e.namespace.Close())
}

// closeKernelSockets closes the sockets to the kernel that are open.
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
	if e.policy != nil {
		e.policy.Close()
		e.policy = nil
	}
	if e.rivals != nil {
		errs = append(errs, e.rivals.Close())
	}
	return errors.Join(append(errs, e.forwarding.Close(), e.hairpins.Close())...)
}

// Close ends the engine. The table stays, and its mappings work. If the engine owned the
// table, it is recreated as one that nobody owns, in one transaction, so that nft(8) can save
// and load it. If that fails, the log says so. Closing again returns ErrClosed.
func (e *Engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.core
	if c.closed && !c.suspended {
		return nat.ErrClosed
	}
	c.closeForGood(func() {})
	return c.disconnect()
}

// closeForGood ends the engine, calls drain, and releases the table unless another process
// has it.
func (e *core) closeForGood(drain func()) {
	others := e.suspended || e.borrowed
	if !others && !e.opts.ReadOnly {
		e.leaveShared()
	}
	e.end()
	drain()
	if !others && !e.opts.ReadOnly {
		e.release()
	}
}

// end closes for good.
func (l *lifecycle) end() {
	l.closed, l.suspended = true, false
	close(l.closing)
}

// writable returns the error if the engine cannot make changes, and removes what has
// expired.
func (e *core) writable() error {
	if e.closed {
		return nat.ErrClosed
	}
	if e.opts.ReadOnly {
		return nat.ErrReadOnly
	}
	e.forget(e.now())
	e.addDueExits()
	return nil
}

// Mappings returns all mappings that are published now, in the order of Compare: single ports,
// and ranges whose ports are the same at the backend. A range from which ports were taken out is
// several. Expand makes single ports of them, and Collapse ranges of consecutive ones.
func (e *Engine) Mappings(ctx context.Context) ([]nat.Mapping, error) {
	return view(ctx, e, func(c *core) ([]nat.Mapping, error) {
		return sortedMappings(c.mappings.All, c.mappings.LenEntries()), nil
	})
}

// sortedMappings are the mappings of about so many ports and ranges, in the order of Compare.
func sortedMappings(ports iter.Seq[portset.Port], count int) []nat.Mapping {
	all := make([]nat.Mapping, 0, count)
	for p := range ports {
		all = append(all, p.Mapping())
	}
	order.Sort(all, nat.Compare)
	return all
}

// expect wakes Run if no port ends sooner than this one.
func (e *core) expect(p portset.Port) {
	if e.expiries.Add(p, &e.mappings) {
		e.wakeRun()
	}
}

// forget removes expired mappings. The kernel has removed their elements by its own clock.
func (e *core) forget(now time.Time) {
	var over, whole []portset.Port
	for {
		elements, ended, ok := e.expiries.Pop(now, &e.mappings)
		if !ok {
			break
		}
		for _, p := range ended {
			e.reserved.Remove(p)
			e.holder.RetireAll(p)
			e.countPort(p, -1)
			if added := e.exits.index.Delete(p, e.exits.places); len(added) != 0 {
				e.exits.due = true
			}
		}
		e.removeLocalhost(ended)
		e.endLed(&portset.Change{Removed: ended}, false, nil)
		over, whole = append(over, ended...), append(whole, elements...)
	}
	e.dropShared(over)
	e.removeOptions(over)
	if len(over) != 0 {
		e.noteRemoved(&portset.Change{Removed: over}, &ipam.Diff{})
		if !e.opts.ReadOnly {
			e.over = append(e.over, slices.DeleteFunc(whole, portset.Port.ProxiedOnly)...)
			e.wakeRun()
		}
		e.events.counts.Expired += portset.Len(over)
		e.send(nat.EventExpired, portset.Collapse(over)...)
	}
}
