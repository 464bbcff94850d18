// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
)

// claim gets a lease, and with it the key of the host. It goes on with the lease of an agent that ran
// before, if that lives.
func (a *agent) claim(ctx context.Context) error {
	end := time.Now().Add(a.TTL + 2*time.Second) // that of an agent that was killed ends until then
	return a.until(ctx, "etcd cannot be used; nothing is withdrawn", func() error {
		before := a.file.lease()
		s, err := a.lease(ctx)
		if err != nil {
			return err
		}
		err = a.claimName(ctx, s)
		if taken, ok := errors.AsType[*TakenError](err); ok {
			if s.ID() != before { // nothing is under it
				_ = s.Close(ctx) // ends by itself
			}
			a.file.update(func() { a.file.Lease = 0 })
			if time.Now().After(end) {
				return err
			}
			return errors.New(taken.Error()) // waits
		}
		return err
	})
}

// lease resumes the lease that is kept, or gets one.
func (a *agent) lease(ctx context.Context) (*store.Session, error) {
	if id := a.file.lease(); id != 0 {
		s, err := a.store.Resume(ctx, id)
		if err == nil && s.TTL() == a.TTL {
			return s, nil
		}
		if err != nil && !errors.Is(err, store.ErrLeaseLost) {
			return nil, err
		}
		// One of another length ends by itself: floating addresses of an agent that was killed may be
		// here still, and others would take them at once.
	}
	s, err := a.store.Session(ctx, a.TTL)
	if err == nil {
		a.file.update(func() { a.file.Lease = s.ID() })
	}
	return s, err
}

// claimName puts the key of the host, unless another agent has it.
func (a *agent) claimName(ctx context.Context, s *store.Session) error {
	key, value := keys.Host(a.Host), a.describe().Format()
	put := clientv3.OpPut(a.store.Key(key), value, clientv3.WithLease(s.ID()))
	for range 3 {
		e, found, _, err := a.store.Get(ctx, key)
		if err != nil {
			return err
		}
		if by, _ := keys.ParseAgent(e.Value); found && e.Lease != s.ID() && by.Instance != a.instance {
			return &TakenError{Host: a.Host, By: by}
		}
		ok, _, err := a.store.Commit(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(a.store.Key(key)), "=", e.Modified)}, put)
		if errors.Is(err, store.ErrUnknown) || err == nil && !ok {
			continue // read back
		}
		if err != nil {
			return err
		}
		a.mu.Lock()
		a.session, a.written = s, ""
		a.mu.Unlock()
		a.poke()
		return nil
	}
	return store.ErrUnknown
}

func (a *agent) current() *store.Session {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.session
}

// hold keeps the lease, and gets another when it is lost.
func (a *agent) hold(ctx context.Context) error {
	for {
		s := a.current()
		last := time.Now()
		err := s.Run(ctx, func(time.Duration) {
			if time.Since(last) > s.TTL()/2 { // etcd did not answer for a while
				a.spaces.Away()
			}
			last = time.Now()
			a.floats.Session(s)
		})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, store.ErrClosed):
			return err
		}
		a.Log.Warn("etcd takes this host for dead: its lease was not renewed in time", "error", err)
		a.mu.Lock()
		a.session = nil
		a.mu.Unlock()
		a.floats.Session(nil)
		if err := a.claim(ctx); err != nil {
			return err
		}
		a.Log.Info("the host is in the fleet again")
		a.spaces.Away()
		a.floats.Session(a.current())
	}
}

// leave ends the lease, so that etcd knows at once, unless a floating address may be here still.
func (a *agent) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s := a.current()
	ended := s != nil && a.floats.Clear() && s.Close(ctx) == nil
	a.file.update(func() {
		if a.file.Seen = a.store.Seen(); ended {
			a.file.Lease = 0
		}
	})
}
