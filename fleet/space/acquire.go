// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package space

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	random "math/rand/v2"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/nat"
)

// acquireAttempts bounds how often a block is lost to other hosts.
const acquireAttempts = 32

// acquire makes one of the next free blocks of a pool this host's, in etcd.
func (m *Manager) acquire(ctx context.Context, p *pool) (uint64, error) {
	avoid := map[uint64]bool{}
	for range acquireAttempts {
		index, ok, err := m.acquireOnce(ctx, p, avoid)
		if ok || err != nil {
			return index, err
		}
	}
	return 0, fmt.Errorf("other hosts acquired %d blocks first: try again", acquireAttempts)
}

func (m *Manager) acquireOnce(ctx context.Context, p *pool, avoid map[uint64]bool) (index uint64, ok bool, err error) {
	m.mu.Lock()
	next := p.ring.next(avoid)
	if len(next) == 0 {
		defer m.mu.Unlock()
		return 0, false, &nat.ExhaustedError{Err: p.full()}
	}
	index = next[random.IntN(len(next))] //nolint:gosec // no secret
	before := p.ring.blocks[index]
	nonce := rand.Text()[:8]
	key := m.store.Key(keys.Block(p.name, index))
	ifs := []clientv3.Cmp{
		clientv3.Compare(clientv3.ModRevision(key), "=", before.modified),
		clientv3.Compare(clientv3.CreateRevision(m.store.Key(keys.SpaceClosed)), "=", 0),
		clientv3.Compare(clientv3.CreateRevision(m.store.Key(keys.SpaceHost(m.host))), ">", 0),
	}
	if !p.ofPorts() {
		if p.at == 0 {
			m.mu.Unlock()
			return 0, false, noNetwork(p.name)
		}
		ifs = append(ifs, clientv3.Compare(clientv3.ModRevision(m.store.Key(keys.Space(p.name))), "=", p.at))
	}
	m.mu.Unlock()

	seen := m.store.Seen().Revision
	ok, rev, err := m.commit(ctx, ifs, clientv3.OpPut(key, keys.HeldBlock(m.host, nonce)))
	if err == nil && ok && rev <= seen { // what is written is newer than all that was seen, but after a restore
		err = store.ErrRestored
	}
	switch {
	case errors.Is(err, store.ErrRestored):
		if ok { // before those that hold it could claim it
			err = errors.Join(err, m.freeBlock(ctx, p, index, rev))
		}
		m.mu.Lock()
		m.restore, m.closed = true, nil
		m.mu.Unlock()
		return 0, false, fmt.Errorf("%w: %w", ErrClosed, err)
	case errors.Is(err, store.ErrUnknown):
		now, found, readErr := m.refresh(ctx, p, index)
		if readErr != nil || !found || now.nonce != nonce {
			// It may still be made: then the block is this host's, and found so when that is told.
			return 0, false, err
		}
		return index, true, nil
	case err != nil:
		return 0, false, err
	case ok:
		m.mu.Lock()
		defer m.mu.Unlock()
		if p.ring.blocks[index].modified < rev { // what was told since is newer
			p.ring.blocks[index] = block{m.host, nonce, rev}
		}
		return index, true, nil
	}
	avoid[index] = true
	if _, _, err := m.refresh(ctx, p, index); err != nil {
		return 0, false, err
	}
	return 0, false, m.refused(ctx, p)
}

// full says that a pool has no free block, and who has them. The lock is held.
func (p *pool) full() error {
	by := p.ring.held()
	var texts []string
	for _, host := range slices.Sorted(maps.Keys(by)) {
		texts = append(texts, fmt.Sprintf("%s %d", host, by[host]))
	}
	return fmt.Errorf("shared network %s is full: its %d blocks are held by %s", p.name, p.ring.size, strings.Join(texts, ", "))
}

// refresh reads a block.
func (m *Manager) refresh(ctx context.Context, p *pool, index uint64) (b block, found bool, err error) {
	e, found, _, err := m.get(ctx, keys.Block(p.name, index))
	if err != nil {
		return block{}, false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !found {
		delete(p.ring.blocks, index)
		return block{}, false, nil
	}
	m.put(e)
	return p.ring.blocks[index], true, nil
}

// refused finds out why a block that is free cannot be acquired; nil: another host was first.
func (m *Manager) refused(ctx context.Context, p *pool) error {
	closed, barred, _, err := m.get(ctx, keys.SpaceClosed)
	if err != nil {
		return err
	}
	if barred {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.put(closed)
		m.wake()
		return m.closedError()
	}
	_, member, _, err := m.get(ctx, keys.SpaceHost(m.host))
	if err == nil && !member {
		m.wake()
		return fmt.Errorf("host %s was forgotten by an operator; it takes part again as soon as it is clear what it holds: try again", m.host)
	}
	if err != nil || p.ofPorts() {
		return err
	}
	def, there, _, err := m.get(ctx, keys.Space(p.name))
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !there {
		p.at = 0
		return noNetwork(p.name)
	}
	m.put(def)
	return nil
}

// giveBack makes a block free, in etcd, if it is this host's. It comes again after all that are free now.
func (m *Manager) giveBack(ctx context.Context, p *pool, index uint64) error {
	m.mu.Lock()
	b := p.ring.blocks[index]
	m.mu.Unlock()
	if b.host != m.host {
		return nil
	}
	return m.freeBlock(ctx, p, index, b.modified)
}

// freeBlock makes a block free whose key has that revision, and reads it back.
func (m *Manager) freeBlock(ctx context.Context, p *pool, index uint64, modified int64) error {
	key := m.store.Key(keys.Block(p.name, index))
	same := clientv3.Compare(clientv3.ModRevision(key), "=", modified)
	_, _, err := m.commit(ctx, []clientv3.Cmp{same}, clientv3.OpPut(key, keys.FreeBlock))
	if err != nil {
		return fmt.Errorf("give back block %d of %s: %w", index, p.name, err)
	}
	_, _, err = m.refresh(ctx, p, index)
	return err
}

// claim makes a block this host's that it holds, though etcd does not know. ok is false if another host
// has it.
func (m *Manager) claim(ctx context.Context, p *pool, index uint64) (ok bool, err error) {
	for range 3 {
		m.mu.Lock()
		b := p.ring.blocks[index]
		m.mu.Unlock()
		if b.host != "" {
			return b.host == m.host, nil
		}
		key := m.store.Key(keys.Block(p.name, index))
		ok, _, err := m.commit(ctx,
			[]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", b.modified)},
			clientv3.OpPut(key, keys.HeldBlock(m.host, rand.Text()[:8])))
		if err != nil && !errors.Is(err, store.ErrUnknown) {
			return false, err
		}
		if _, _, err := m.refresh(ctx, p, index); err != nil {
			return false, err
		}
		if ok {
			m.mu.Lock()
			m.missed = true
			m.mu.Unlock()
			m.log.Warn("shared network: claimed a block that this host holds and etcd did not know", "network", p.name, "block", index)
		}
	}
	return false, fmt.Errorf("claim block %d of %s: other hosts change it all the time", index, p.name)
}
