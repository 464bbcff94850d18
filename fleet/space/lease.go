// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package space

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/nat"
)

// Lease attaches an endpoint with an address of a shared network that no other host leases. The network of the
// spec is the shared one. Doing it again with the same spec changes nothing.
//
// Errors are those of the daemon, [ErrClosed], [ErrNotYet], nat.ErrNotFound if there is no such
// network, nat.ErrExhausted if all of its blocks are held and this host's are full, and those of a store
// if this host's blocks are full and etcd does not answer.
func (m *Manager) Lease(ctx context.Context, a nat.EndpointSpec) (nat.Endpoint, error) {
	network := a.Network
	ep, err := m.lease(ctx, network, a)
	if err != nil {
		return nat.Endpoint{}, fmt.Errorf("lease %s of %s: %w", a.Name, network, err)
	}
	return ep, nil
}

func (m *Manager) lease(ctx context.Context, network string, a nat.EndpointSpec) (nat.Endpoint, error) {
	if err := keys.ValidateName("shared network", network); err != nil {
		return nat.Endpoint{}, err
	}
	if err := a.Validate(); err != nil {
		return nat.Endpoint{}, err
	}
	p, def, err := m.await(ctx, network)
	if err != nil {
		return nat.Endpoint{}, err
	}
	p.leasing.Lock()
	defer p.leasing.Unlock()
	if a.Address.IsValid() {
		return m.leaseCertain(ctx, p, def, a)
	}
	if m.wantsAnother(p, def) {
		p.wanted = make(chan struct{})
		select {
		case m.want <- p:
		default: // the next lease says it again
			p.wanted = nil
		}
	}
	for {
		ep, err := m.leaseNext(ctx, p, a)
		if !errors.Is(err, errFull) {
			return m.again(ctx, def, a, ep, err)
		}
		coming := p.wanted
		if coming == nil {
			break
		}
		p.leasing.Unlock()
		select {
		case <-coming:
		case <-ctx.Done():
		}
		p.leasing.Lock()
		if ctx.Err() != nil {
			return nat.Endpoint{}, ctx.Err()
		}
	}
	h, err := m.another(ctx, p, def)
	if err != nil {
		return nat.Endpoint{}, err
	}
	return m.attach(ctx, h, a)
}

// wantsAnother reports whether this host has little room in its blocks, and can have one while others can, too: an address that is released would come
// again soon.
func (m *Manager) wantsAnother(p *pool, def Definition) bool {
	if p.wanted != nil || len(p.mine) == 0 || p.room(def) >= def.capacity()/4 || time.Now().Before(p.notBefore) {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	free := p.ring.size
	for _, n := range p.ring.held() {
		free -= uint64(n) //nolint:gosec // a number of blocks
	}
	return 8*free >= p.ring.size
}

// extend acquires another block for a pool that has little room. Leases do not wait for etcd meanwhile.
func (m *Manager) extend(ctx context.Context, p *pool) {
	m.mu.Lock()
	def := p.def
	m.mu.Unlock()
	err := m.checkApart(ctx, def)
	var index uint64
	if err == nil {
		index, err = m.acquire(ctx, p)
	}
	p.leasing.Lock()
	defer p.leasing.Unlock()
	close(p.wanted)
	p.wanted = nil
	if err == nil {
		_, err = m.declare(ctx, p, def, index)
	}
	if err != nil { // there is room still
		p.notBefore = time.Now().Add(retryEarly)
	}
}

// room is how many addresses are free in the blocks of this host, as far as is known, but those in except.
func (p *pool) room(def Definition, except ...*holding) (n int) {
	for _, h := range p.mine {
		if h.fault == "" && !h.full && !slices.Contains(except, h) {
			n += max(0, def.capacity()-h.used)
		}
	}
	return n
}

// again returns the endpoint if it is there already, as the spec has it.
func (m *Manager) again(ctx context.Context, def Definition, a nat.EndpointSpec, ep nat.Endpoint, err error) (nat.Endpoint, error) {
	if _, taken := errors.AsType[*nat.TakenError](err); !taken {
		return ep, err
	}
	have, findErr := m.daemon.Endpoint(ctx, a.Name)
	if findErr != nil || !def.Prefix.Contains(have.Address) {
		return ep, err
	}
	a.Network = have.Network
	return m.daemon.Attach(ctx, a)
}

// leaseCertain leases the address that the spec asks for, which has to be in a block of this host.
func (m *Manager) leaseCertain(ctx context.Context, p *pool, def Definition, a nat.EndpointSpec) (nat.Endpoint, error) {
	index, ok := def.BlockOf(a.Address)
	if !ok {
		return nat.Endpoint{}, &nat.InvalidError{What: "address", Input: a.Address.String(), Reason: "it is not in shared network " + def.Name + " " + def.Prefix.String()}
	}
	i := slices.IndexFunc(p.mine, func(h *holding) bool { return h.index == index })
	if i < 0 {
		b, _, err := m.refresh(ctx, p, index)
		switch {
		case err != nil:
			return nat.Endpoint{}, err
		case b.host == "" || b.host == m.host:
			return nat.Endpoint{}, &nat.InvalidError{What: "address", Input: a.Address.String(), Reason: fmt.Sprintf("it is in block %s, which this host does not hold", def.BlockPrefix(index))}
		}
		return nat.Endpoint{}, &nat.TakenError{What: "address " + a.Address.String(), Holder: "host " + b.host + ", with its block " + def.BlockPrefix(index).String()}
	}
	if p.mine[i].fault != "" {
		return nat.Endpoint{}, errors.New(p.mine[i].fault)
	}
	last := p.mine[i].last
	ep, err := m.attach(ctx, p.mine[i], a)
	p.mine[i].last = last // the pass goes on
	return m.again(ctx, def, a, ep, err)
}

// leaseNext leases the next address of the blocks that this host holds: in cyclic order over all of them,
// so that it goes on to the next block where it would begin one again. The error is errFull if all are.
func (m *Manager) leaseNext(ctx context.Context, p *pool, a nat.EndpointSpec) (nat.Endpoint, error) {
	n := len(p.mine)
	for i := range n + 1 { // the first one again: perhaps it was left because its pass was over
		turn := (p.turn + i) % max(n, 1)
		if n == 0 || p.mine[turn].fault != "" || p.mine[turn].full {
			continue
		}
		h := p.mine[turn]
		if i == 0 && n > 1 && h.last.IsValid() {
			now, err := m.daemon.Network(ctx, h.name)
			if err != nil {
				return nat.Endpoint{}, err
			}
			if now.Next.Compare(h.last) <= 0 {
				h.last = now.Gateway // its next pass begins
				continue
			}
		}
		ep, err := m.attach(ctx, h, a)
		if errors.Is(err, errFull) {
			continue
		}
		if err == nil {
			p.turn = turn
		}
		return ep, err
	}
	return nat.Endpoint{}, errFull
}

// retryEarly is when a block is asked for again that is not urgent.
const retryEarly = 30 * time.Second

// errFull means that blocks have no free address.
var errFull = errors.New("full")

// attach attaches an endpoint in a block. The error is errFull if that has no free address.
func (m *Manager) attach(ctx context.Context, h *holding, a nat.EndpointSpec) (nat.Endpoint, error) {
	a.Network = h.name
	var report nat.Report
	ep, err := m.daemon.Attach(nat.WithReport(ctx, &report), a)
	switch {
	case err == nil && !report.Unchanged:
		h.last = ep.Address
		h.used++
		h.idle = time.Time{}
	case errors.Is(err, nat.ErrExhausted) && strings.Contains(err.Error(), "network "+h.name+" "): // and not of ports
		h.full = true
		return ep, errFull
	}
	return ep, err
}

// another has this host hold one more block: one that it holds in etcd alone, else the next of the pool.
func (m *Manager) another(ctx context.Context, p *pool, def Definition) (*holding, error) {
	if err := m.checkApart(ctx, def); err != nil {
		return nil, err
	}
	for _, index := range m.spares(p) {
		if ok, err := m.renew(ctx, p, index); err != nil {
			return nil, err
		} else if ok {
			return m.declare(ctx, p, def, index)
		}
	}
	index, err := m.acquire(ctx, p)
	if err != nil {
		return nil, err
	}
	return m.declare(ctx, p, def, index)
}

// spares are the blocks that this host has in etcd alone: of transactions whose outcome was not known, of daemons that
// lost their networks, and what it does not need any more. Those that are being given back are none.
func (m *Manager) spares(p *pool) []uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.ring == nil {
		return nil
	}
	return slices.DeleteFunc(p.ring.of(m.host), func(i uint64) bool {
		return p.returning[i] || slices.ContainsFunc(p.mine, func(h *holding) bool { return h.index == i })
	})
}

// renew puts the key of a block that this host holds again. Another transaction of this host, that gives it
// back and whose outcome is not known, cannot do so any more.
func (m *Manager) renew(ctx context.Context, p *pool, index uint64) (bool, error) {
	m.mu.Lock()
	b := p.ring.blocks[index]
	m.mu.Unlock()
	if b.host != m.host {
		return false, nil
	}
	key := m.store.Key(keys.Block(p.name, index))
	nonce := rand.Text()[:8]
	_, _, err := m.commit(ctx,
		[]clientv3.Cmp{
			clientv3.Compare(clientv3.ModRevision(key), "=", b.modified),
			clientv3.Compare(clientv3.CreateRevision(m.store.Key(keys.SpaceClosed)), "=", 0),
		},
		clientv3.OpPut(key, keys.HeldBlock(m.host, nonce)))
	if err != nil && !errors.Is(err, store.ErrUnknown) {
		return false, err
	}
	now, found, err := m.refresh(ctx, p, index)
	return found && now.nonce == nonce, err
}

// declare creates the network of a block in the daemon. If that fails, the block is given back soon.
func (m *Manager) declare(ctx context.Context, p *pool, def Definition, index uint64) (*holding, error) {
	n, err := m.daemon.CreateNetwork(ctx, def.network(index))
	if err != nil {
		m.wake() // the block is a spare one
		return nil, err
	}
	if i := slices.IndexFunc(p.mine, func(h *holding) bool { return h.index == index }); i >= 0 {
		return p.mine[i], nil // a lease that was urgent has found it
	}
	h := &holding{index: index, name: n.Name}
	p.mine = append(p.mine, h)
	p.turn = len(p.mine) - 1
	m.log.Info("shared network: acquired a block", "network", p.name, "block", n.Prefix.String())
	return h, nil
}

// checkApart refuses a shared network that a network of this host overlaps.
func (m *Manager) checkApart(ctx context.Context, def Definition) error {
	all, err := m.daemon.Networks(ctx)
	if err != nil {
		return err
	}
	return apart(def, all)
}

// apart refuses a shared network if another one of a host overlaps it.
func apart(def Definition, all []nat.Network) error {
	for _, n := range all {
		if shared, _, ok := ParseBlockName(n.Name); ok && shared == def.Name {
			continue
		}
		if n.Prefix.Overlaps(def.Prefix) {
			return &nat.TakenError{What: "prefix " + def.Prefix.String() + " of shared network " + def.Name, Holder: "network " + n.String() + " of this host"}
		}
	}
	return nil
}

// Release detaches an endpoint of a shared network, and returns what was published of it. A block that is
// empty then is given back, if this host has room in others. The error is nat.ErrNotFound if there is no such endpoint.
func (m *Manager) Release(ctx context.Context, network, name string) ([]nat.Mapping, error) {
	ms, err := m.release(ctx, network, name)
	if err != nil {
		return nil, fmt.Errorf("release %s of %s: %w", name, network, err)
	}
	return ms, nil
}

func (m *Manager) release(ctx context.Context, network, name string) ([]nat.Mapping, error) {
	if err := keys.ValidateName("shared network", network); err != nil {
		return nil, err
	}
	m.mu.Lock()
	p := m.pool(network)
	m.mu.Unlock()
	p.leasing.Lock()
	defer p.leasing.Unlock()
	ep, err := m.daemon.Endpoint(ctx, name)
	if err != nil {
		return nil, err
	}
	if shared, _, ok := ParseBlockName(ep.Network); !ok || shared != network {
		return nil, missingError(fmt.Sprintf("endpoint %s is in network %s", name, ep.Network))
	}
	ms, err := m.daemon.Detach(ctx, name)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(p.mine, func(h *holding) bool { return h.name == ep.Network }); i >= 0 {
		p.mine[i].full = false
		p.mine[i].used--
		if p.mine[i].used <= 0 {
			m.wake() // it does not wait for etcd
		}
	}
	return ms, nil
}

// tidy gives back blocks that are empty, as long as this host has room for half a block in others: it acquires one when
// it has room for a quarter, so that a lease that comes and goes does not do both each time. What fails
// is tried again later.
func (m *Manager) tidy(ctx context.Context, p *pool) {
	m.mu.Lock()
	def := p.def
	m.mu.Unlock()
	for i := 0; i < len(p.mine); i++ {
		h := p.mine[i]
		if h.used > 0 || h.fault != "" || p.room(def, h) < def.capacity()/2 && !m.isIdle(h) {
			continue
		}
		if m.drop(ctx, p, i) == nil {
			i--
		}
	}
}

// isIdle reports whether nothing was in a block for a while. Then it is given back even if it is the last.
func (m *Manager) isIdle(h *holding) bool {
	if h.idle.IsZero() {
		h.idle = time.Now()
	}
	return time.Since(h.idle) >= m.every
}

// drop removes the network of a holding from the daemon. Its block is a spare one then.
func (m *Manager) drop(ctx context.Context, p *pool, i int) error {
	h := p.mine[i]
	if err := m.daemon.RemoveNetwork(ctx, h.name); err != nil && !errors.Is(err, nat.ErrNotFound) {
		h.used = max(h.used, 1) // perhaps by other hands; the next reconciliation counts
		return err
	}
	p.mine = slices.Delete(p.mine, i, i+1)
	if p.turn > i || p.turn >= len(p.mine) {
		p.turn = max(0, p.turn-1)
	}
	m.log.Info("shared network: gives a block back", "network", p.name, "block", h.name)
	return nil
}
