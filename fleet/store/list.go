// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Entry is a key and its value.
type Entry struct {
	// Key is relative to the prefix of the store.
	Key   string
	Value string
	// Created and Modified are revisions, for comparisons of a transaction.
	Created, Modified int64
	// Lease is that which the key ends with. Zero: none.
	Lease clientv3.LeaseID
}

// Snapshot is all that begins with a prefix, at one revision, by key.
type Snapshot struct {
	Revision int64
	Entries  []Entry
}

// Change is what became of a key.
type Change struct {
	Entry
	// Deleted: the key is no more, and Value is empty.
	Deleted bool
}

// Update is what [Store.Follow] tells.
type Update struct {
	// Revision that it is about.
	Revision int64
	// Whole: Entries is all there is; what is not in it is gone. Otherwise Changes of one revision.
	Whole   bool
	Entries []Entry
	Changes []Change
	// Restored: etcd was restored from an older snapshot since the last whole update. Whole is set.
	Restored bool
	// Err is set, and nothing else, when etcd no longer tells of changes: what was told stays what is known.
	Err error
}

// page is how many keys are asked for at a time: an agent with 10,000 keys needs less memory so.
const page = 500

// List returns all keys that begin with a relative prefix.
func (s *Store) List(ctx context.Context, prefix string) (Snapshot, error) {
	return s.listRange(ctx, s.span(prefix))
}

// span is a range of whole keys.
type span struct{ from, before string }

func (s *Store) span(prefix string) span {
	return span{s.Key(prefix), clientv3.GetPrefixRangeEnd(s.Key(prefix))}
}

func (s *Store) listRange(ctx context.Context, of span) (Snapshot, error) {
	var err error
	for range 5 { // a compaction between two pages
		var snap Snapshot
		if snap, err = s.list(ctx, of); !errors.Is(err, rpctypes.ErrCompacted) {
			return snap, err
		}
	}
	return Snapshot{}, err
}

func (s *Store) list(ctx context.Context, of span) (snap Snapshot, err error) {
	from, end := of.from, of.before
	for {
		opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(page)}
		if snap.Revision != 0 {
			opts = append(opts, clientv3.WithRev(snap.Revision))
		}
		resp, err := s.get(ctx, from, opts...)
		if err != nil {
			return Snapshot{}, err
		}
		if snap.Revision == 0 {
			snap.Revision = resp.Header.Revision
			snap.Entries = make([]Entry, 0, resp.Count)
		}
		for _, kv := range resp.Kvs {
			snap.Entries = append(snap.Entries, s.entry(kv))
		}
		if !resp.More || len(resp.Kvs) == 0 {
			return snap, nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

func (s *Store) get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	call, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	resp, err := s.client.Get(call, key, opts...)
	if err != nil {
		return nil, s.wrap(ctx, err, false)
	}
	s.note(ctx, resp.Header, true)
	return resp, nil
}

// Get returns one key; found is false if there is none. rev is the revision of the answer.
func (s *Store) Get(ctx context.Context, key string) (e Entry, found bool, rev int64, err error) {
	resp, err := s.get(ctx, s.Key(key))
	if err != nil {
		return Entry{}, false, 0, err
	}
	if len(resp.Kvs) == 0 {
		return Entry{}, false, resp.Header.Revision, nil
	}
	return s.entry(resp.Kvs[0]), true, resp.Header.Revision, nil
}

func (s *Store) entry(kv *mvccpb.KeyValue) Entry {
	return Entry{
		Key: strings.TrimPrefix(string(kv.Key), s.prefix), Value: string(kv.Value),
		Created: kv.CreateRevision, Modified: kv.ModRevision, Lease: clientv3.LeaseID(kv.Lease),
	}
}

// Follow tells f all that begins with a relative prefix, and then each change, until ctx is done or f
// returns an error, which it returns. Whenever etcd may have told less than all, it tells all anew.
// Several relative prefixes are followed by Follow of what they have in common: "" is everything.
//
// While no member answers, the client is not told of changes, and does not know: see [Session].
func (s *Store) Follow(ctx context.Context, prefix string, f func(Update) error) error {
	return s.follow(ctx, s.span(prefix), f)
}

// FollowBefore is Follow of all keys of the store that are less than a relative one.
func (s *Store) FollowBefore(ctx context.Context, before string, f func(Update) error) error {
	return s.follow(ctx, span{s.Key(""), s.Key(before)}, f)
}

func (s *Store) follow(ctx context.Context, of span, f func(Update) error) error {
	known, _ := s.restoresSeen()
	const least, most = 100 * time.Millisecond, 3 * time.Second
	wait := least
	for {
		restores, restored := s.restoresSeen()
		snap, err := s.listRange(ctx, of)
		if err == nil {
			if now, ch := s.restoresSeen(); now != restores { // noticed by this list
				restores, restored = now, ch
			}
			u := Update{Revision: snap.Revision, Whole: true, Entries: snap.Entries, Restored: restores != known}
			known = restores
			if err := f(u); err != nil {
				return err
			}
			begun := time.Now()
			var stop error
			if err, stop = s.watch(ctx, of, snap.Revision+1, restored, f); stop != nil {
				return stop
			}
			if time.Since(begun) > most {
				wait = least
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, ErrClosed) {
			return err
		}
		if err != nil {
			if err := f(Update{Err: err}); err != nil {
				return err
			}
		}
		select { // a hundred agents do not list at the same moment
		case <-time.After(wait/2 + rand.N(wait)): //nolint:gosec // no secret
		case <-ctx.Done():
			return ctx.Err()
		}
		wait = min(2*wait, most)
	}
}

// watch tells f the changes from a revision on. err is why the watch has ended, nil after a restore or
// a compaction; stop is the error of f.
func (s *Store) watch(ctx context.Context, of span, from int64, restored <-chan struct{}, f func(Update) error) (err, stop error) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	ch := s.client.Watch(ctx, of.from, clientv3.WithRange(of.before), clientv3.WithRev(from))
	for {
		select {
		case <-restored:
			return nil, nil
		case resp, ok := <-ch:
			if !ok {
				return ErrUnavailable, nil
			}
			if resp.CompactRevision != 0 {
				return nil, nil
			}
			if err := resp.Err(); err != nil {
				return s.wrap(ctx, err, false), nil
			}
			if s.note(ctx, resp.Header, false) {
				return nil, nil
			}
			if stop := s.report(resp.Events, f); stop != nil {
				return nil, stop
			}
		}
	}
}

// report tells f the events, each revision's at a time.
func (s *Store) report(events []*clientv3.Event, f func(Update) error) error {
	for len(events) > 0 {
		u := Update{Revision: events[0].Kv.ModRevision}
		n := 0
		for n < len(events) && events[n].Kv.ModRevision == u.Revision {
			e := events[n]
			c := Change{Entry: s.entry(e.Kv), Deleted: e.Type == clientv3.EventTypeDelete}
			u.Changes = append(u.Changes, c)
			n++
		}
		events = events[n:]
		if err := f(u); err != nil {
			return err
		}
	}
	return nil
}
