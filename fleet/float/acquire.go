// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package float

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/nat"
)

// took is what this host takes over from a transaction of its own, before it is told of it.
func (s *state) took(h keys.Holder, lease clientv3.LeaseID, revision int64) {
	if revision > s.modified {
		s.held, s.holder, s.lease, s.modified = true, h, lease, revision
	}
}

// nextEpoch is the put of the next epoch, and the comparison without which it is not the next.
func nextEpoch(st *store.Store, a netip.Addr, number uint64, modified int64, host string) (clientv3.Cmp, clientv3.Op) {
	key := st.Key(keys.FloatEpoch(a))
	e := keys.Epoch{Number: number + 1, Host: host, Since: time.Now()}
	return clientv3.Compare(clientv3.ModRevision(key), "=", modified), clientv3.OpPut(key, e.String())
}

// acquire tries to become the holder of an address that has none.
func (m *Manager) acquire(ctx context.Context, s *state) {
	key, lease, h := m.Store.Key(keys.Float(s.addr)), m.session.ID(), keys.Holder{Host: m.Host}
	number := s.epoch + 1
	cmp, epoch := nextEpoch(m.Store, s.addr, s.epoch, s.epochMod, m.Host)
	m.spawn(ctx, s, func(call context.Context) func() {
		ok, revision, err := m.Store.Commit(call,
			[]clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), "=", 0), cmp},
			clientv3.OpPut(key, h.String(), clientv3.WithLease(lease)), epoch)
		return func() {
			// Of a transaction without an answer, what is followed tells.
			s.pause = time.Now().Add(again)
			if err == nil && ok {
				s.took(h, lease, revision)
				s.epoch, s.epochMod = number, revision
				s.pause, s.retry = time.Time{}, time.Time{}
			}
			if err != nil && !errors.Is(err, store.ErrUnknown) && ctx.Err() == nil {
				m.problem(s, err.Error())
			}
		}
	})
}

// serve says in etcd that the address is here.
func (m *Manager) serve(ctx context.Context, s *state) {
	key, lease, h := m.Store.Key(keys.Float(s.addr)), m.session.ID(), keys.Holder{Host: m.Host, Serving: true}
	modified := s.modified
	m.spawn(ctx, s, func(ctx context.Context) func() {
		ok, revision, err := m.Store.Commit(ctx,
			[]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", modified)},
			clientv3.OpPut(key, h.String(), clientv3.WithLease(lease)))
		return func() {
			if err != nil || !ok {
				s.retry = time.Now().Add(again)
				return
			}
			s.took(h, lease, revision)
			if s.doubt && m.mine(s) { // it was not, and no longer can be: the key has another revision
				s.doubt, s.handing = false, false
				if s.added {
					m.extend(s)
				}
			}
		}
	})
}

// giveUp removes the address, then the key, and lets others take it for some time. It returns
// when to look again.
//
// A removal without an answer may still be carried out, when another host could have the
// address at once. So nothing else is done with the key before an answer came.
func (m *Manager) giveUp(ctx context.Context, s *state, pause time.Duration, why string) time.Duration {
	s.giving = true
	m.suspect(s)
	if !m.remove(s, why) {
		return again
	}
	modified := s.modified
	s.pause = time.Now().Add(pause)
	m.spawn(ctx, s, func(call context.Context) func() {
		err := m.release(call, s.addr, modified)
		return func() {
			if err != nil {
				s.retry = time.Now().Add(again)
				m.Log.Warn("cannot give back a floating address", "address", s.addr, "err", err)
				return
			}
			if s.giving = false; s.modified == modified { // it was not told yet
				s.held = false
			}
		}
	})
	return time.Minute
}

// release removes the key, if it has not changed.
func (m *Manager) release(ctx context.Context, a netip.Addr, modified int64) error {
	key := m.Store.Key(keys.Float(a))
	_, _, err := m.Store.Commit(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", modified)}, clientv3.OpDelete(key))
	return err
}

// hand gives the key to the host that it was asked to be handed over to. The address gets no more
// time from here on, and stays for a short one that the kernel ends, so that the other has it
// before this one has not.
func (m *Manager) hand(ctx context.Context, s *state) {
	to, modified := s.request, s.modified
	key, request := m.Store.Key(keys.Float(s.addr)), m.Store.Key(keys.FloatRequest(s.addr))
	cmp, epoch := nextEpoch(m.Store, s.addr, s.epoch, s.epochMod, to)
	s.handing = true // it gets no more time
	m.spawn(ctx, s, func(ctx context.Context) func() {
		agent, found, _, err := m.Store.Get(ctx, keys.Host(to))
		if err == nil && (!found || agent.Lease == 0) {
			err = fmt.Errorf("host %s: %w: its agent does not run", to, nat.ErrNotFound)
		}
		var ok bool
		var revision int64
		if err == nil {
			host := m.Store.Key(keys.Host(to))
			ok, revision, err = m.Store.Commit(ctx,
				[]clientv3.Cmp{
					clientv3.Compare(clientv3.ModRevision(key), "=", modified),
					clientv3.Compare(clientv3.LeaseValue(host), "=", agent.Lease),
					cmp,
				},
				clientv3.OpPut(key, keys.Holder{Host: to}.String(), clientv3.WithLease(agent.Lease)), epoch, clientv3.OpDelete(request))
		}
		return func() {
			if err == nil && ok {
				s.took(keys.Holder{Host: to}, agent.Lease, revision)
				s.request = ""
				m.shorten(s)
				m.Log.Info("handed over a floating address", "address", s.addr, "host", to)
				return
			}
			s.retry = time.Now().Add(again)
			if errors.Is(err, store.ErrUnknown) {
				s.doubt = true // its key is written anew, so that it is not carried out later
				return
			}
			s.handing = false
			if s.added && m.mine(s) {
				m.extend(s)
			}
			m.Log.Warn("did not hand over a floating address", "address", s.addr, "host", to, "err", err)
		}
	})
}
