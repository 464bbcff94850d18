// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/nat"
)

// Daemon is what a reconciler asks of the daemon of its host: [*api.Client] has it.
type Daemon interface {
	Mappings(ctx context.Context) ([]nat.Mapping, error)
	Exchange(ctx context.Context, x nat.Exchange) ([]nat.Change, error)
	Networks(ctx context.Context) ([]nat.Network, error)
	CreateNetwork(ctx context.Context, n nat.Network) (nat.Network, error)
	RemoveNetwork(ctx context.Context, name string) error
}

// Options are those of [New].
type Options struct {
	// Host is the name of this host.
	Host string
	// Groups are those that it is in.
	Groups []string
	// Daemon is that of the host.
	Daemon Daemon
	// Elsewhere reports whether a frontend's address is that of another host at the moment, so that
	// what is mapped on it is not published here. Nil: none is.
	Elsewhere func(netip.Addr) bool
	// Log has what an operator should look into. Nil: nothing is logged.
	Log *slog.Logger
}

// Reconciler makes a daemon have what etcd says. Its methods may be called at the same time.
type Reconciler struct {
	host      string
	daemon    Daemon
	elsewhere func(netip.Addr) bool
	log       *slog.Logger

	stepping sync.Mutex // held by Step, and guards what only it uses
	loaded   bool       // have and networks are what the daemon has
	have     map[string][]nat.Mapping
	networks map[string]nat.Network

	mu       sync.Mutex
	items    items
	told     bool           // etcd has told of everything
	revision int64          // of what etcd has told
	dirty    map[thing]bool // may be different in the daemon
	refused  map[thing]keys.Fault
	applied  int64 // the revision that is applied
	counts   [2]int
	away     string // why the daemon does not do anything
	lost     bool   // the daemon's mappings have to be read again
}

// New returns a reconciler that was told nothing: it changes nothing.
func New(o Options) *Reconciler {
	r := &Reconciler{
		host: o.Host, daemon: o.Daemon, elsewhere: o.Elsewhere, log: o.Log,
		items: newItems(o.Host, o.Groups), dirty: map[thing]bool{}, refused: map[thing]keys.Fault{},
	}
	if r.elsewhere == nil {
		r.elsewhere = func(netip.Addr) bool { return false }
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	return r
}

// Update is told what etcd has, of all keys or of those of this package. It reports whether there is
// something to do for [Reconciler.Step].
func (r *Reconciler) Update(u store.Update) bool {
	if u.Err != nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var dirty map[thing]bool
	if u.Whole {
		dirty = r.items.replace(u.Entries)
		r.told, r.lost = true, true // and what the daemon has that no item is for goes
	} else {
		relevant := slices.ContainsFunc(u.Changes, func(c store.Change) bool {
			return c.Key == keys.Generation || strings.HasPrefix(c.Key, keys.Desired)
		})
		if !relevant { // a status, or a floating address
			return false
		}
		dirty = r.items.apply(u.Changes)
	}
	maps.Copy(r.dirty, dirty)
	r.revision = u.Revision
	return true
}

// Event is told what happens in the daemon, and reports whether there is something to do for Step.
func (r *Reconciler) Event(e api.Event) bool {
	r.stepping.Lock() // what is done now is known then
	defer r.stepping.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch e.Type {
	case api.EventLost:
		r.lost = true
		return true
	case api.EventRepaired, api.EventHost:
		return false
	case api.EventUnpublished, api.EventExpired, api.EventPublished:
	}
	again := len(r.refused) != 0 && e.Type != api.EventPublished // what was in their way may be gone
	if again {
		r.retry()
	}
	if e.Mapping == nil || !strings.HasPrefix(e.Mapping.Name, keys.MappingPrefix) {
		return again
	}
	if has := r.has(e.Mapping); has == (e.Type == api.EventPublished) || has && e.Type == api.EventExpired {
		return again // by this agent
	}
	r.lost = true
	return true
}

// has reports whether a mapping of the daemon is known.
func (r *Reconciler) has(m *api.Mapping) bool {
	return slices.ContainsFunc(r.have[strings.TrimPrefix(m.Name, keys.MappingPrefix)], func(have nat.Mapping) bool {
		first, port := int(have.Frontend.Port()), int(m.Port)
		if have.Proto.String() != m.Proto || port < first || port > first+int(have.More) {
			return false
		}
		host := ""
		if a := have.Frontend.Addr(); a.IsValid() {
			host = a.String()
		}
		b, err := netip.ParseAddrPort(m.Backend)
		return host == m.Host && err == nil && b == netip.AddrPortFrom(have.Backend.Addr(), have.Backend.Port()+uint16(port-first))
	})
}

// Retry makes Step try what was refused again, and look whether the daemon has what it should.
func (r *Reconciler) Retry() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.retry()
	r.lost = true
}

func (r *Reconciler) retry() {
	for t := range r.refused {
		r.dirty[t] = true
	}
}

// Floats makes Step look at what is mapped on addresses that go from host to host.
func (r *Reconciler) Floats(is func(netip.Addr) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for t := range r.items.all {
		if it := r.items.of(t); slices.ContainsFunc(it.mappings, func(m nat.Mapping) bool { return is(m.Frontend.Addr()) }) {
			r.dirty[t] = true
		}
	}
}

// Refused says why an item that has a mapping on such an address is not applied. Nil: all are.
func (r *Reconciler) Refused(is func(netip.Addr) bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away != "" {
		return errors.New(r.away)
	}
	for t, fault := range r.refused {
		if it := r.items.of(t); it != nil && slices.ContainsFunc(it.mappings, func(m nat.Mapping) bool { return is(m.Frontend.Addr()) }) {
			return fmt.Errorf("%s: %s", it.Item, fault.Reason)
		}
	}
	return nil
}

// Report is what was done.
func (r *Reconciler) Report() keys.HostStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := keys.HostStatus{Revision: r.applied, Mappings: r.counts[0], Networks: r.counts[1], Daemon: r.away}
	if r.items.open() {
		s.Waiting = r.items.change.String()
	}
	for _, f := range r.refused {
		s.Errors = append(s.Errors, f)
	}
	for _, f := range r.items.wrong {
		s.Errors = append(s.Errors, f)
	}
	slices.SortFunc(s.Errors, func(a, b keys.Fault) int { return strings.Compare(a.Key, b.Key) })
	return s
}

// plan is what Step has to do, at one revision.
type plan struct {
	revision int64
	mappings []exchange
	networks []netChange
}

// exchange is what one item changes.
type exchange struct {
	thing
	item   *keys.Item // nil: there is none any more
	at     int64
	want   []nat.Mapping
	change nat.Exchange
}

// Step makes the daemon have what etcd has told. An error is about the daemon as a whole: then it is to
// be called again later. What the daemon refuses is in the report.
func (r *Reconciler) Step(ctx context.Context) error {
	r.stepping.Lock()
	defer r.stepping.Unlock()
	var err error
	for range 5 { // others change the daemon at the same time
		if err = r.step(ctx); !errors.Is(err, errChanged) {
			break
		}
		r.loaded = false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	away := ""
	if err != nil {
		away, r.loaded = err.Error(), false
	}
	if away != r.away && away != "" {
		r.log.Warn("the daemon does not do what the fleet wants", "error", err)
	}
	r.away = away
	return err
}

// errChanged: the daemon does not have what was read of it before.
var errChanged = errors.New("the daemon's mappings change all the time")

func (r *Reconciler) step(ctx context.Context) error {
	r.mu.Lock()
	if r.lost {
		r.lost, r.loaded = false, false
	}
	told := r.told
	r.mu.Unlock()
	if !told {
		return nil
	}
	if !r.loaded {
		if err := r.load(ctx); err != nil {
			r.mu.Lock()
			r.lost = true
			r.mu.Unlock()
			return err
		}
	}
	p, ok := r.plan()
	if !ok {
		return nil
	}
	faults := map[thing]keys.Fault{}
	if err := r.createNetworks(ctx, p.networks, faults); err != nil {
		return r.undo(p, err)
	}
	refused, err := r.exchangeAll(ctx, p.mappings)
	if err == nil && len(refused) != 0 { // they may have waited for others
		refused, err = r.exchangeEach(ctx, refused, faults)
	}
	if err != nil {
		return r.undo(p, err)
	}
	if err := r.removeNetworks(ctx, p.networks, faults); err != nil {
		return r.undo(p, err)
	}
	r.finish(p, refused, faults)
	return nil
}

// undo makes what was planned be planned again.
func (r *Reconciler) undo(p plan, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range p.mappings {
		r.dirty[x.thing] = true
	}
	for _, n := range p.networks {
		r.dirty[n.thing] = true
	}
	return err
}

// load reads what the daemon has of the fleet. Everything is to be looked at then.
func (r *Reconciler) load(ctx context.Context) error {
	ms, err := r.daemon.Mappings(ctx)
	if err != nil {
		return err
	}
	ns, err := r.daemon.Networks(ctx)
	if err != nil {
		return err
	}
	r.have, r.networks = map[string][]nat.Mapping{}, map[string]nat.Network{}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range ms {
		if name, ours := strings.CutPrefix(m.Name, keys.MappingPrefix); ours {
			r.have[name] = append(r.have[name], m)
			r.dirty[thing{keys.KindMapping, name}] = true
		}
	}
	for name, ms := range r.have {
		r.have[name] = nat.Collapse(ms)
	}
	for _, n := range ns {
		if name, ours := strings.CutPrefix(n.Name, keys.NetworkPrefix); ours {
			r.networks[name] = n
			r.dirty[thing{keys.KindNetwork, name}] = true
		}
	}
	for t := range r.items.all {
		r.dirty[t] = true
	}
	r.loaded = true
	return nil
}

// plan takes what is to be done. ok is false while a change of several transactions is under way.
func (r *Reconciler) plan() (p plan, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.items.open() {
		return p, false
	}
	p.revision = r.revision
	now := time.Now()
	dirty := slices.Collect(maps.Keys(r.dirty))
	slices.SortFunc(dirty, func(a, b thing) int { return strings.Compare(a.name, b.name) })
	clear(r.dirty)
	for _, t := range dirty {
		delete(r.refused, t)
		it := r.items.of(t)
		if it != nil && it.err != nil { // it stays as it was
			r.refused[t] = keys.Fault{Key: it.Key(), Revision: it.revision, Reason: it.err.Error()}
			continue
		}
		switch t.kind {
		case keys.KindMapping:
			x := exchange{thing: t}
			if it != nil {
				x.item, x.at, x.want = &it.Item, it.revision, r.wanted(it.mappings, now)
			}
			if x.change = difference(r.have[t.name], x.want); len(x.change.Remove)+len(x.change.Publish) != 0 {
				p.mappings = append(p.mappings, x)
			} else if len(x.want) != 0 {
				r.have[t.name] = x.want // one copy of both
			}
		case keys.KindFloat: // of package float
		case keys.KindNetwork:
			if n, differs := r.netChange(t, it); differs {
				p.networks = append(p.networks, n)
			}
		}
	}
	return p, true
}

// wanted are the mappings that have not expired and whose addresses are here.
func (r *Reconciler) wanted(ms []nat.Mapping, now time.Time) []nat.Mapping {
	unwanted := func(m nat.Mapping) bool {
		return !m.Expires.IsZero() && !m.Expires.After(now) || m.Frontend.Addr().IsValid() && r.elsewhere(m.Frontend.Addr())
	}
	if !slices.ContainsFunc(ms, unwanted) {
		return ms
	}
	return slices.DeleteFunc(slices.Clone(ms), unwanted)
}

// difference is what makes the mappings of a name those that are wanted.
func difference(have, want []nat.Mapping) (x nat.Exchange) {
	same := func(a, b nat.Mapping) bool {
		apart := a.Expires.Sub(b.Expires)
		if a.Expires.IsZero() == b.Expires.IsZero() && apart.Abs() < time.Second {
			a.Expires = b.Expires
		}
		return a == b
	}
	for _, m := range have {
		if !slices.ContainsFunc(want, func(w nat.Mapping) bool { return same(m, w) }) {
			x.Remove = append(x.Remove, m)
		}
	}
	for _, m := range want {
		if !slices.ContainsFunc(have, func(h nat.Mapping) bool { return same(h, m) }) {
			x.Publish = append(x.Publish, m)
		}
	}
	return x
}

// exchangeAll exchanges everything in one transaction. What the daemon refuses it finds by halves, and
// does the rest.
func (r *Reconciler) exchangeAll(ctx context.Context, xs []exchange) (refused []exchange, err error) {
	if len(xs) == 0 {
		return nil, nil
	}
	var x nat.Exchange
	for i := range xs {
		x.Remove = append(x.Remove, xs[i].change.Remove...)
		x.Publish = append(x.Publish, xs[i].change.Publish...)
	}
	_, err = r.daemon.Exchange(ctx, x)
	switch {
	case err == nil:
		for i := range xs {
			r.done(&xs[i])
		}
		return nil, nil
	case !refusal(err):
		return nil, err
	case errors.Is(err, nat.ErrNotFound): // not what was read
		return nil, errChanged
	case len(xs) == 1:
		return xs, nil
	}
	half := len(xs) / 2
	refused, err = r.exchangeAll(ctx, xs[:half])
	if err != nil {
		return nil, err
	}
	more, err := r.exchangeAll(ctx, xs[half:])
	return append(refused, more...), err
}

// exchangeEach tries what was refused once more, one after another, and says why.
func (r *Reconciler) exchangeEach(ctx context.Context, xs []exchange, faults map[thing]keys.Fault) (refused []exchange, err error) {
	for i := range xs {
		x := &xs[i]
		_, err := r.daemon.Exchange(ctx, x.change)
		switch {
		case err == nil:
			r.done(x)
			continue
		case !refusal(err):
			return nil, err
		case errors.Is(err, nat.ErrNotFound):
			return nil, errChanged
		}
		fault := keys.Fault{Reason: reason(err)}
		if x.item != nil {
			fault.Key, fault.Revision = x.item.Key(), x.at
		}
		faults[x.thing] = fault
		refused = append(refused, *x)
	}
	return refused, nil
}

// reason is the error of an exchange without what was asked.
func reason(err error) string {
	text := err.Error()
	if rest, ok := strings.CutPrefix(text, "exchange "); ok {
		if _, rest, ok = strings.Cut(rest, ": "); ok {
			return rest
		}
	}
	return text
}

// done notes what the daemon has now.
func (r *Reconciler) done(x *exchange) {
	if len(x.want) == 0 {
		delete(r.have, x.name)
	} else {
		r.have[x.name] = x.want
	}
}

// finish notes what was applied and what was not.
func (r *Reconciler) finish(p plan, refused []exchange, faults map[thing]keys.Fault) {
	mappings := 0
	for _, ms := range r.have {
		mappings += len(ms)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.applied, r.counts = p.revision, [2]int{mappings, len(r.networks)}
	for t, f := range faults {
		r.refused[t] = f
		r.log.Warn("an item cannot be applied on this host", "key", f.Key, "revision", f.Revision, "error", f.Reason)
	}
	if n := len(p.mappings) - len(refused); n != 0 {
		r.log.Info("applied", "revision", p.revision, "items", n)
	}
}

// refusal reports whether an error is the daemon's answer to what it was asked, and not about the daemon.
func refusal(err error) bool {
	var op *net.OpError
	switch {
	case errors.Is(err, api.ErrNoServer), errors.Is(err, api.ErrBusy), errors.Is(err, nat.ErrClosed), errors.Is(err, errors.ErrUnsupported),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, fs.ErrPermission), errors.As(err, &op):
		return false
	}
	return true
}
