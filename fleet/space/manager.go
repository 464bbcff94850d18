// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package space

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/nat"
)

var (
	// ErrClosed is the error of a lease while not all hosts have claimed what they hold, after etcd was
	// restored from an older snapshot.
	ErrClosed = errors.New("nothing is leased until all hosts have claimed what they hold, since etcd was restored from an older snapshot")
	// ErrNotYet is the error of a lease before etcd has told what other hosts hold.
	ErrNotYet = errors.New("etcd has not told yet what this host and others hold")
)

// missingError says what there is not. It is nat.ErrNotFound.
type missingError string

func (e missingError) Error() string { return string(e) }

func (e missingError) Unwrap() error { return nat.ErrNotFound }

func noNetwork(name string) error {
	return missingError(fmt.Sprintf("there is no shared network %q", name))
}

// Daemon is what a manager asks of the daemon of its host: [*api.Client] has it.
type Daemon interface {
	Networks(context.Context) ([]nat.Network, error)
	Network(ctx context.Context, name string) (nat.Network, error)
	CreateNetwork(context.Context, nat.Network) (nat.Network, error)
	RemoveNetwork(ctx context.Context, name string) error
	Attach(context.Context, nat.EndpointSpec) (nat.Endpoint, error)
	Detach(ctx context.Context, name string) ([]nat.Mapping, error)
	Endpoint(ctx context.Context, name string) (nat.Endpoint, error)
	Endpoints(context.Context) ([]nat.Endpoint, error)
	Mappings(context.Context) ([]nat.Mapping, error)
	Publish(ctx context.Context, how nat.PublishOptions, ms ...nat.Mapping) ([]nat.Mapping, error)
}

// Options are those of [New].
type Options struct {
	// Host is the name of this host, which no other has.
	Host   string
	Store  *store.Store
	Daemon Daemon
	// Log has what an operator should look into. Nil: nothing is logged.
	Log *slog.Logger
	// Every is how often blocks are looked at that became empty by other hands. Zero: 30 s.
	Every time.Duration
}

// Manager has the blocks of one host. Its methods may be called at the same time, while Run runs.
type Manager struct {
	host   string
	store  *store.Store
	daemon Daemon
	log    *slog.Logger
	every  time.Duration
	kick   chan struct{} // something is to be reconciled
	want   chan *pool    // has little room
	// Those of the store; tests record them.
	commit func(ctx context.Context, ifs []clientv3.Cmp, then ...clientv3.Op) (ok bool, rev int64, err error)
	get    func(ctx context.Context, key string) (e store.Entry, found bool, rev int64, err error)

	mu      sync.Mutex
	known   bool  // etcd has told of everything
	at      int64 // the revision of that
	listed  bool  // the daemon's mappings were looked through for ports of shared addresses
	pools   map[string]*pool
	closed  *entry // the bar; nil: there is none
	hosts   map[string]entry
	missed  bool          // etcd did not know a block that this host holds
	suspect bool          // etcd was away, and may have been restored
	restore bool          // etcd was restored, and there is no bar for that yet
	ready   chan struct{} // closed when what this host holds is claimed
	claimed bool
	faults  []string // of the last reconciliation
	logged  map[string]bool
}

// entry is the value of a key, with its revision.
type entry struct {
	value    string
	modified int64
}

// pool is a shared network, or the ports of a protocol and a shared address.
type pool struct {
	name string
	// leasing serializes leases, and guards what this host holds.
	leasing sync.Mutex
	mine    []*holding
	turn    int           // which of these leases next
	wanted  chan struct{} // closed when another block was acquired, which is not urgent; nil: none is
	// notBefore is when a block may be asked for that is not urgent.
	notBefore time.Time

	// Guarded by Manager.mu: what etcd has.
	def   Definition // zero for ports
	at    int64      // the revision of the definition; 0: there is none
	ring  *ring      // nil: without a definition
	found bool       // the daemon has mappings with its ports
	// returning are blocks that are being given back.
	returning map[uint64]bool
}

// holding is a block that this host holds.
type holding struct {
	index uint64
	name  string     // of the daemon's network
	last  netip.Addr // leased in this pass; zero: none
	full  bool       // when it was asked last
	used  int        // endpoints, as far as is known
	port  int        // of the block: where the search goes on
	idle  time.Time  // since when nothing is in it; zero: something is, or was when that was looked at
	fault string     // why nothing is leased from it
}

// New returns a manager.
func New(o Options) *Manager {
	m := &Manager{
		host: o.Host, store: o.Store, daemon: o.Daemon, log: o.Log, every: o.Every,
		kick: make(chan struct{}, 1), want: make(chan *pool, 1), pools: map[string]*pool{}, hosts: map[string]entry{}, ready: make(chan struct{}), logged: map[string]bool{},
	}
	if m.store != nil {
		m.commit, m.get = m.store.Commit, m.store.Get
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if m.every == 0 {
		m.every = 30 * time.Second
	}
	return m
}

// Run keeps what this host holds in order, until ctx is done. Whoever runs it passes what etcd tells to Update.
func (m *Manager) Run(ctx context.Context) error {
	m.reconcileAlways(ctx)
	return ctx.Err()
}

// Update notes what etcd tells of the keys below [keys.Spaces]; others may be among them.
func (m *Manager) Update(u store.Update) {
	if u.Err != nil {
		return // what was told stays what is known
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if u.Whole {
		for _, p := range m.pools {
			p.at = 0
			if p.ring != nil {
				clear(p.ring.blocks)
			}
		}
		m.closed = nil
		clear(m.hosts)
		for _, e := range u.Entries {
			m.put(e)
		}
		m.known, m.at, m.listed = true, u.Revision, false
		m.restore = m.restore || u.Restored
	}
	concerns := u.Whole
	for _, c := range u.Changes {
		if c.Deleted {
			m.deleted(c.Key, c.Modified)
		} else {
			m.put(c.Entry)
		}
		key, ok := keys.ParseSpaceKey(c.Key)
		reminder := c.Key == keys.SpaceClosed && !c.Deleted && m.hosts[m.host].value == c.Value
		concerns = concerns || ok && !reminder && (!key.IsBlock || m.disputes(key))
	}
	if concerns {
		m.wake()
	}
}

// disputes reports whether a block is one that another host and this one have had.
func (m *Manager) disputes(key keys.SpaceKey) bool { return key.IsBlock && len(m.faults) != 0 }

// wake has everything reconciled.
func (m *Manager) wake() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// pool returns the pool of a name. The lock is held.
func (m *Manager) pool(name string) *pool {
	p := m.pools[name]
	if p == nil {
		p = &pool{name: name, returning: map[uint64]bool{}}
		if p.ofPorts() {
			p.ring = newRing(portBlocks)
		}
		m.pools[name] = p
	}
	return p
}

// ofPorts reports whether it is a pool of ports, which needs no definition.
func (p *pool) ofPorts() bool {
	_, _, ok := keys.ParsePortPool(p.name)
	return ok
}

// put notes a key. The lock is held.
func (m *Manager) put(e store.Entry) {
	now := entry{e.Value, e.Modified}
	key, ok := keys.ParseSpaceKey(e.Key)
	switch {
	case !ok:
	case e.Key == keys.SpaceClosed:
		m.closed = &now
	case key.Pool == "":
		if host, ok := strings.CutPrefix(e.Key, keys.SpaceHosts); ok {
			m.hosts[host] = now
		}
	case key.IsBlock:
		p := m.pool(key.Pool)
		host, nonce, err := keys.ParseBlock(e.Value)
		if p.ring != nil && err == nil && key.Index < p.ring.size && p.ring.blocks[key.Index].modified <= e.Modified {
			p.ring.blocks[key.Index] = block{host, nonce, e.Modified}
		}
	default:
		p := m.pool(key.Pool)
		d, err := ParseDefinition(key.Pool, e.Value)
		if err != nil {
			m.fault(err.Error())
			p.at = 0
			return
		}
		if p.ring == nil || p.def != d {
			p.ring = newRing(d.Blocks())
		}
		p.def, p.at = d, e.Modified
	}
}

// deleted notes that a key is gone since a revision. The lock is held.
func (m *Manager) deleted(name string, rev int64) {
	key, ok := keys.ParseSpaceKey(name)
	switch {
	case !ok:
	case name == keys.SpaceClosed:
		m.closed = nil
	case key.Pool == "":
		delete(m.hosts, strings.TrimPrefix(name, keys.SpaceHosts))
	case key.IsBlock:
		// An answer may have told of a later change than this.
		if p := m.pool(key.Pool); p.ring != nil && p.ring.blocks[key.Index].modified < rev {
			delete(p.ring.blocks, key.Index)
		}
	default:
		m.pool(key.Pool).at = 0
	}
}

// maxLogged bounds how many texts are remembered, so that each is logged once.
const maxLogged = 100

// fault notes something to look into. The lock is held.
func (m *Manager) fault(text string) {
	if len(m.logged) > maxLogged {
		clear(m.logged)
	}
	if !m.logged[text] {
		m.logged[text] = true
		m.log.Warn("shared network: " + text)
	}
	if !slices.Contains(m.faults, text) {
		m.faults = append(m.faults, text)
	}
}

// Faults are what an operator should look into: blocks that two hosts have, and what keeps this host
// from leasing.
func (m *Manager) Faults() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := slices.Clone(m.faults)
	if m.closed != nil {
		all = append(all, m.closedError().Error())
	}
	return all
}

// closedError is ErrClosed with the hosts that are waited for. The lock is held.
func (m *Manager) closedError() error {
	var missing []string
	for host, e := range m.hosts {
		if e.value != m.closed.value {
			missing = append(missing, host)
		}
	}
	slices.Sort(missing)
	return fmt.Errorf("%w (missing: %s)", ErrClosed, strings.Join(missing, ", "))
}

// readyTime is how long a lease waits for etcd after a start.
const readyTime = 5 * time.Second

// await waits until this host may lease from a pool, and returns it with its definition.
func (m *Manager) await(ctx context.Context, name string) (*pool, Definition, error) {
	wait, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	select {
	case <-m.ready:
	case <-wait.Done():
		return nil, Definition{}, fmt.Errorf("%w%s", ErrNotYet, m.why())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed != nil {
		return nil, Definition{}, m.closedError()
	}
	if m.restore {
		return nil, Definition{}, ErrClosed
	}
	p := m.pool(name)
	if !p.ofPorts() && p.at == 0 {
		return nil, Definition{}, noNetwork(name)
	}
	return p, p.def, nil
}

func (m *Manager) why() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.faults) == 0 {
		return ""
	}
	return ": " + strings.Join(m.faults, "; ")
}
