// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Session is a lease of etcd that its holder renews. It knows a time until which etcd surely has it.
type Session struct {
	store *Store
	id    clientv3.LeaseID
	ttl   atomic.Int64
	until atomic.Int64
}

// Session grants a lease. etcd has none of less than 2 s.
func (s *Store) Session(ctx context.Context, ttl time.Duration) (*Session, error) {
	call, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	sent := Now()
	resp, err := s.client.Grant(call, int64((ttl+time.Second-1)/time.Second))
	if err != nil {
		return nil, s.wrap(ctx, err, true)
	}
	s.note(ctx, resp.ResponseHeader, false)
	ss := &Session{store: s, id: resp.ID}
	ss.answered(sent, resp.TTL)
	return ss, nil
}

// Resume goes on with a lease that was granted before, by this process or another. The error is
// ErrLeaseLost if it is no more.
func (s *Store) Resume(ctx context.Context, id clientv3.LeaseID) (*Session, error) {
	ss := &Session{store: s, id: id}
	ss.ttl.Store(int64(3 * s.timeout)) // until it is known
	return ss, ss.Renew(ctx)
}

// answered sets the deadline: from when the request was sent, not from when the answer came, less 1 %
// for clocks of different rates.
func (s *Session) answered(sent time.Duration, ttl int64) {
	d := time.Duration(ttl) * time.Second
	s.ttl.Store(int64(d))
	s.until.Store(int64(sent + d - d/100))
}

// ID is the lease, for puts.
func (s *Session) ID() clientv3.LeaseID { return s.id }

// TTL is what etcd granted.
func (s *Session) TTL() time.Duration { return time.Duration(s.ttl.Load()) }

// Until is the time, of the clock of [Now], until which etcd has the lease, whatever happens. It may
// have it for longer.
func (s *Session) Until() time.Duration { return time.Duration(s.until.Load()) }

// Alive reports whether the lease lives for sure.
func (s *Session) Alive() bool { return Now() < s.Until() }

// Renew renews the lease, by one request. The error is ErrLeaseLost if it is no more.
func (s *Session) Renew(ctx context.Context) error {
	call, cancel := context.WithTimeout(ctx, max(s.TTL()/3, time.Second/2))
	defer cancel()
	sent := Now()
	resp, err := s.store.client.KeepAliveOnce(call, s.id)
	if err != nil {
		return s.store.brief(ctx, err, false) // there is just time to ask another member
	}
	s.store.note(ctx, resp.ResponseHeader, false)
	if resp.TTL <= 0 {
		return ErrLeaseLost
	}
	s.answered(sent, resp.TTL)
	return nil
}

// Run renews the lease every third of its time, and calls renewed each time it was. It returns
// ErrLeaseLost when the lease is no more, and ErrUnavailable when its time has passed without an answer:
// etcd may have it, and Renew may get it back. It does not revoke it when ctx is done.
func (s *Session) Run(ctx context.Context, renewed func(until time.Duration)) error {
	for {
		wait := s.TTL() / 3
		err := s.Renew(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			renewed(s.Until())
		case errors.Is(err, ErrLeaseLost), errors.Is(err, ErrClosed), !s.Alive():
			return err
		default:
			wait = s.TTL() / 20
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close revokes the lease, so that its keys go at once.
func (s *Session) Close(ctx context.Context) error {
	call, cancel := context.WithTimeout(ctx, s.store.timeout)
	defer cancel()
	s.until.Store(0)
	resp, err := s.store.client.Revoke(call, s.id)
	if err != nil {
		return s.store.wrap(ctx, err, true)
	}
	s.store.note(ctx, resp.Header, false)
	return nil
}
