// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package space

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
)

// retryTime is when what failed is tried again.
const retryTime = time.Second

// reconcileAlways reconciles when etcd has told something, and from time to time.
func (m *Manager) reconcileAlways(ctx context.Context) {
	tick := time.NewTimer(m.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-m.want:
			m.extend(ctx, p)
			continue
		case <-m.kick:
		case <-tick.C:
		}
		next := m.every
		if err := m.Reconcile(ctx); err != nil && ctx.Err() == nil || m.isClosed() {
			next = min(m.every, retryTime)
		}
		tick.Reset(next)
	}
}

// Reconcile compares what this host holds, by its daemon, with what etcd has: it claims blocks that etcd does not know, gives back
// those that it does not need, and takes part in the opening after a restore. It does nothing before etcd has told of everything.
func (m *Manager) Reconcile(ctx context.Context) error {
	m.mu.Lock()
	known := m.known
	m.mu.Unlock()
	if !known {
		return nil
	}
	err := m.reconcile(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.fault(err.Error())
		return err
	}
	if !m.claimed {
		m.claimed = true
		close(m.ready)
	}
	return nil
}

func (m *Manager) reconcile(ctx context.Context) error {
	networks, err := m.daemon.Networks(ctx)
	if err != nil {
		return err
	}
	if err := m.discover(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	m.faults = nil
	there := map[string]bool{}
	for _, n := range networks {
		if shared, _, ok := ParseBlockName(n.Name); ok {
			there[shared] = true
			m.pool(shared) // perhaps etcd does not know it
		}
	}
	var pools []*pool
	for _, p := range m.pools {
		pools = append(pools, p)
	}
	m.mu.Unlock()
	member, err := m.join(ctx)
	if err != nil {
		return err
	}
	if err := m.shut(ctx); err != nil {
		return err
	}
	if err := m.listAnew(ctx); err != nil {
		return err
	}
	contradictions := 0
	for _, p := range pools {
		if !there[p.name] && !m.concerns(p) {
			continue
		}
		n, err := m.reconcilePool(ctx, p)
		if err == nil {
			err = m.giveBackSpares(ctx, p)
		}
		if err != nil {
			return err
		}
		contradictions += n
	}
	m.mu.Lock()
	if m.missed && member && m.closed == nil {
		// It held a block that etcd does not know, and was not forgotten: etcd was restored, and nobody noticed, since so much
		// was written after it that revisions went on.
		m.restore = true
		m.wake()
	}
	m.missed = false
	m.mu.Unlock()
	return m.reopen(ctx, contradictions)
}

// discover finds pools of ports by the mappings of the daemon. That is a long list, which is read at the start and when etcd has
// told of everything anew.
func (m *Manager) discover(ctx context.Context) error {
	m.mu.Lock()
	listed := m.listed
	m.mu.Unlock()
	if listed {
		return nil
	}
	mappings, err := m.daemon.Mappings(ctx)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listed = true
	for _, o := range mappings {
		if isShared(o) {
			m.pool(keys.PortPool(o.Proto, o.Frontend.Addr())).found = true
		}
	}
	return nil
}

// concerns reports whether this host has, or may have, something of a pool.
func (m *Manager) concerns(p *pool) bool {
	p.leasing.Lock()
	defer p.leasing.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	return p.found || len(p.mine) != 0 || p.ring != nil && len(p.ring.of(m.host)) != 0
}

// join puts this host among those that take part, and reports whether it was.
func (m *Manager) join(ctx context.Context) (member bool, err error) {
	m.mu.Lock()
	_, member = m.hosts[m.host]
	m.mu.Unlock()
	if member {
		return true, nil
	}
	key := keys.SpaceHost(m.host)
	absent := clientv3.Compare(clientv3.CreateRevision(m.store.Key(key)), "=", 0)
	if _, _, err := m.commit(ctx, []clientv3.Cmp{absent}, clientv3.OpPut(m.store.Key(key), "")); err != nil {
		return false, err
	}
	e, found, _, err := m.get(ctx, key)
	if err == nil && found {
		m.mu.Lock()
		m.put(e)
		m.mu.Unlock()
	}
	return false, err
}

// shut keeps all hosts from leasing, if this host has seen that etcd was restored.
func (m *Manager) shut(ctx context.Context) error {
	m.mu.Lock()
	restored := m.restore
	m.mu.Unlock()
	if !restored {
		return nil
	}
	m.log.Warn("shared network: etcd was restored from an older snapshot; nothing is leased until all hosts have claimed what they hold")
	key := keys.SpaceClosed
	absent := clientv3.Compare(clientv3.CreateRevision(m.store.Key(key)), "=", 0)
	value := rand.Text()[:8] + " " + m.host + " " + time.Now().UTC().Format(time.RFC3339)
	if _, _, err := m.commit(ctx, []clientv3.Cmp{absent}, clientv3.OpPut(m.store.Key(key), value)); err != nil {
		return err
	}
	e, found, _, err := m.get(ctx, key)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.restore = false
	if found {
		m.put(e)
	}
	return nil
}

// listAnew reads everything after etcd was away, and while leases are barred and this host has not confirmed: perhaps etcd was restored and nobody
// noticed, since so much was written after it that the revision is past the one seen before. Then what is known is old.
func (m *Manager) listAnew(ctx context.Context) error {
	m.mu.Lock()
	current := !m.suspect && (m.closed == nil || m.hosts[m.host].value == m.closed.value)
	m.suspect = false
	m.mu.Unlock()
	if current {
		return nil
	}
	snap, err := m.store.List(ctx, keys.Spaces)
	if err == nil {
		m.Update(store.Update{Revision: snap.Revision, Whole: true, Entries: snap.Entries})
	} else {
		m.mu.Lock()
		m.suspect = true // tried again soon
		m.mu.Unlock()
	}
	return err
}

// Away is called when etcd did not answer: when it does again, what it has is compared with what this host holds.
func (m *Manager) Away() {
	m.mu.Lock()
	m.suspect = true
	m.mu.Unlock()
	m.wake()
}

// reopen confirms that this host has claimed what it holds, and ends the bar if all have.
func (m *Manager) reopen(ctx context.Context, contradictions int) error {
	m.mu.Lock()
	closed := m.closed
	m.mu.Unlock()
	if closed == nil || contradictions != 0 {
		return nil
	}
	key := m.store.Key(keys.SpaceClosed)
	same := clientv3.Compare(clientv3.Value(key), "=", closed.value)
	m.mu.Lock()
	confirmed := m.hosts[m.host].value == closed.value
	m.mu.Unlock()
	if !confirmed {
		if _, _, err := m.commit(ctx, []clientv3.Cmp{same}, clientv3.OpPut(m.store.Key(keys.SpaceHost(m.host)), closed.value)); err != nil {
			return err
		}
	}
	// Whoever is last ends it.
	all, err := m.store.List(ctx, keys.SpaceHosts)
	if err != nil {
		return err
	}
	ifs := []clientv3.Cmp{same}
	for _, e := range all.Entries {
		if e.Value != closed.value {
			return m.remind(ctx, closed)
		}
		if len(ifs) < maxCompares {
			ifs = append(ifs, clientv3.Compare(clientv3.ModRevision(m.store.Key(e.Key)), "=", e.Modified))
		}
	}
	_, _, err = m.commit(ctx, ifs, clientv3.OpDelete(key))
	return err
}

// remind puts the bar again, so that agents hear of it which wait for later revisions than it had.
func (m *Manager) remind(ctx context.Context, closed *entry) error {
	key := m.store.Key(keys.SpaceClosed)
	same := clientv3.Compare(clientv3.ModRevision(key), "=", closed.modified)
	_, _, err := m.commit(ctx, []clientv3.Cmp{same}, clientv3.OpPut(key, closed.value))
	return err
}

// maxCompares is how many comparisons a transaction of etcd may have.
const maxCompares = 128

// reconcilePool does so for one pool. It returns how many blocks this host holds that it cannot claim.
func (m *Manager) reconcilePool(ctx context.Context, p *pool) (contradictions int, err error) {
	if p.ofPorts() {
		return m.reconcilePorts(ctx, p)
	}
	p.leasing.Lock()
	defer p.leasing.Unlock()
	// Anew, under the lock: leases go on meanwhile.
	networks, err := m.daemon.Networks(ctx)
	if err != nil {
		return 0, err
	}
	used, err := m.count(ctx, p.name)
	if err != nil {
		return 0, err
	}
	m.mu.Lock()
	def, there := p.def, p.at != 0
	closed := m.closed != nil
	m.mu.Unlock()
	before := p.mine
	var current *holding
	if p.turn < len(before) {
		current = before[p.turn]
	}
	p.mine = nil
	for _, n := range networks {
		shared, index, ok := ParseBlockName(n.Name)
		if !ok || shared != p.name {
			continue
		}
		h := &holding{index: index, name: n.Name}
		if i := slices.IndexFunc(before, func(o *holding) bool { return o.name == n.Name }); i >= 0 {
			h = before[i]
		}
		if h.used, h.full, h.fault = used[n.Name], false, ""; h.used != 0 {
			h.idle = time.Time{}
		}
		p.mine = append(p.mine, h)
		switch {
		case !there:
			h.fault = fmt.Sprintf("block %s of this host is of shared network %s, which etcd does not have", n.Prefix, p.name)
		case index >= def.Blocks() || def.BlockPrefix(index) != n.Prefix:
			h.fault = fmt.Sprintf("block %s of this host is none of shared network %s %s with blocks of /%d", n.Prefix, p.name, def.Prefix, def.Block)
		default:
			ok, err := m.claim(ctx, p, index)
			if err != nil {
				return 0, err
			}
			if !ok {
				h.fault = fmt.Sprintf("block %s of shared network %s is held by this host and by host %s", n.Prefix, p.name, m.holderOf(p, index))
			}
		}
		if h.fault == "" {
			continue
		}
		if h.used == 0 { // nothing to quarrel about
			if err := m.drop(ctx, p, len(p.mine)-1); err != nil {
				return 0, err
			}
			continue
		}
		contradictions++
		m.mu.Lock()
		m.fault(h.fault)
		m.mu.Unlock()
	}
	m.order(p, current)
	if !there {
		return contradictions, nil
	}
	if closed { // others may have to claim these
		for i := range slices.Backward(p.mine) {
			if p.mine[i].used == 0 {
				if err := m.drop(ctx, p, i); err != nil {
					return 0, err
				}
			}
		}
		return contradictions, nil
	}
	m.tidy(ctx, p)
	return contradictions, nil
}

// order sorts what this host holds as it was acquired, and goes on with the current one; after a start with
// the last.
func (m *Manager) order(p *pool, current *holding) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.ring != nil {
		slices.SortStableFunc(p.mine, func(a, b *holding) int {
			return cmp.Compare(p.ring.blocks[a.index].modified, p.ring.blocks[b.index].modified)
		})
	}
	if p.turn = slices.Index(p.mine, current); p.turn < 0 {
		p.turn = max(0, len(p.mine)-1)
	}
}

// giveBackSpares gives back blocks that this host has in etcd alone. Leases do not wait for that.
func (m *Manager) giveBackSpares(ctx context.Context, p *pool) error {
	p.leasing.Lock()
	spare := m.spares(p)
	m.mu.Lock()
	for _, i := range spare {
		p.returning[i] = true
	}
	m.mu.Unlock()
	p.leasing.Unlock()
	var errs []error
	for _, i := range spare {
		if len(errs) == 0 { // etcd does not answer, and would not of the others
			if err := m.giveBack(ctx, p, i); err != nil {
				errs = append(errs, err)
			}
		}
		m.mu.Lock()
		delete(p.returning, i)
		m.mu.Unlock()
	}
	return errors.Join(errs...)
}

func (m *Manager) isClosed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed != nil
}

// holderOf is the host that etcd has for a block.
func (m *Manager) holderOf(p *pool, index uint64) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return p.ring.blocks[index].host
}

// count counts the endpoints in the blocks of a shared network.
func (m *Manager) count(ctx context.Context, network string) (map[string]int, error) {
	all, err := m.daemon.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	used := map[string]int{}
	for _, ep := range all {
		if shared, _, ok := ParseBlockName(ep.Network); ok && shared == network {
			used[ep.Network]++
		}
	}
	return used, nil
}
