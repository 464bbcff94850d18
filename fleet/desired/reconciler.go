// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

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
	if r.items.half {
		for t := range r.items.all {
			if it := r.items.of(t); slices.ContainsFunc(it.mappings, func(m nat.Mapping) bool { return is(m.Frontend.Addr()) }) {
				return fmt.Errorf("%s: it waits for the end of %s", it.Item, r.items.change)
			}
		}
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
