// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/nat"
)

const (
	// atOnce is how many keys one transaction changes; etcd takes 128 operations.
	atOnce = 100
	// bytesAtOnce is how much it writes; etcd takes 1.5 MiB.
	bytesAtOnce = 512 << 10
	// maxValue is the size of the longest value.
	maxValue = 64 << 10
	// applyingTTL is how long a change that its maker has left counts as under way.
	applyingTTL = 10 * time.Second
)

// BusyError is the error of a change while another one is under way. It is nat.ErrConflict.
type BusyError struct {
	Change keys.Change
	// Left: its maker is gone, and left it unfinished.
	Left bool
}

// Error says whose change it is.
func (e *BusyError) Error() string {
	if e.Left {
		return e.Change.String() + " was not finished: apply its file again, or this one with --abandon to take what was written of it"
	}
	return e.Change.String() + " is under way"
}

// Unwrap is nat.ErrConflict.
func (e *BusyError) Unwrap() error { return nat.ErrConflict }

// Difference is a key that changes.
type Difference struct {
	Item     keys.Item
	Old, New string // empty: there is none
	revision int64  // of the old one
}

// String is the line that is printed: `+ mapping web of all: 8080->172.17.0.2:80`.
func (d Difference) String() string {
	line := func(s string) string { return strings.ReplaceAll(s, "\n", " | ") }
	switch {
	case d.Old == "":
		return fmt.Sprintf("+ %s: %s", d.Item, line(d.New))
	case d.New == "":
		return fmt.Sprintf("- %s: %s", d.Item, line(d.Old))
	}
	return fmt.Sprintf("~ %s: %s => %s", d.Item, line(d.Old), line(d.New))
}

// Values are the values of a scope's items by key that are those of a state. Errors are nat.ErrInvalid.
func Values(scope keys.Scope, s nat.State) (map[string]string, error) {
	if err := scope.Validate(); err != nil {
		return nil, err
	}
	if len(s.Endpoints) != 0 {
		return nil, &nat.InvalidError{What: nat.WhatEndpoint, Input: s.Endpoints[0].Name, Reason: "a fleet has mappings and networks; endpoints are their hosts'"}
	}
	values := map[string]string{}
	named := map[string][]nat.Mapping{}
	for _, m := range s.Mappings {
		name := m.Name
		if name == "" {
			name = nameOf(m)
		}
		named[name] = append(named[name], m)
	}
	for name, ms := range named {
		if err := keys.ValidateName(nat.WhatMapping, name); err != nil {
			return nil, err
		}
		i := keys.Item{Scope: scope, Kind: keys.KindMapping, Name: name}
		values[i.Key()] = keys.FormatMappings(ms)
		if _, err := keys.ParseMappings(name, values[i.Key()]); err != nil {
			return nil, err
		}
	}
	for _, n := range s.Networks {
		if err := keys.ValidateName(nat.WhatNetwork, n.Name); err != nil {
			return nil, err
		}
		i := keys.Item{Scope: scope, Kind: keys.KindNetwork, Name: n.Name}
		values[i.Key()] = keys.FormatNetwork(n)
		if _, err := keys.ParseNetwork(n.Name, values[i.Key()]); err != nil {
			return nil, err
		}
	}
	for key, value := range values {
		if len(value) > maxValue {
			return nil, &nat.InvalidError{What: "value", Input: key, Reason: fmt.Sprintf("it has %d bytes, more than %d", len(value), maxValue)}
		}
	}
	return values, nil
}

// nameOf is the name of an item of a mapping that has none: tcp-192.0.2.1-8080.
func nameOf(m nat.Mapping) string {
	text := m.Proto.String() + "-" + strings.Trim(m.FrontendText(), "[]")
	return strings.TrimRight(strings.Map(func(r rune) rune {
		if r == ':' || r == '[' || r == ']' {
			return '-'
		}
		return r
	}, text), "-")
}

// at is what etcd has of a scope.
type at struct {
	revision   int64
	entries    map[string]store.Entry
	change     keys.Change
	generation int64 // the revision of the change; 0: none
}

func read(ctx context.Context, s *store.Store, scope keys.Scope) (a at, err error) {
	// First: what changes after it is noticed by the comparison of a transaction.
	e, _, _, err := s.Get(ctx, keys.Generation)
	if err != nil {
		return a, err
	}
	a.change, a.generation, a.entries = keys.ParseChange(e.Value), e.Modified, map[string]store.Entry{}
	snap, err := s.List(ctx, scope.Prefix())
	if err != nil {
		return a, err
	}
	for _, e := range snap.Entries {
		if i, err := keys.ParseItem(e.Key); err == nil && (i.Kind == keys.KindMapping || i.Kind == keys.KindNetwork) {
			a.entries[e.Key] = e
		}
	}
	a.revision = snap.Revision
	return a, nil
}

// diff is what makes what is there the values.
func (a at) diff(values map[string]string) (ds []Difference) {
	for key, e := range a.entries {
		if value, ok := values[key]; !ok || value != e.Value {
			i, _ := keys.ParseItem(key)
			ds = append(ds, Difference{Item: i, Old: e.Value, New: value, revision: e.Modified})
		}
	}
	for key, value := range values {
		if _, ok := a.entries[key]; !ok {
			i, _ := keys.ParseItem(key)
			ds = append(ds, Difference{Item: i, New: value})
		}
	}
	slices.SortFunc(ds, func(a, b Difference) int { return strings.Compare(a.Item.Key(), b.Item.Key()) })
	return ds
}

// Diff returns what Write would change.
func Diff(ctx context.Context, s *store.Store, scope keys.Scope, values map[string]string) ([]Difference, error) {
	a, err := read(ctx, s, scope)
	if err != nil {
		return nil, err
	}
	return a.diff(values), nil
}

// WriteOptions are those of Write.
type WriteOptions struct {
	// By says who writes, for others.
	By string
	// Abandon takes what was written of another change that its maker has left.
	Abandon bool
	// Told is called when a change needs several transactions. Nil: it is not.
	Told func(keysToWrite int)
}

// Write makes the mappings and networks of a scope these values, those of [Values]. It returns what
// changed, and the revision after it. Agents apply all of it at once. If it fails before its end, they
// apply nothing of it: then it is to be called again.
func Write(ctx context.Context, s *store.Store, scope keys.Scope, values map[string]string, o WriteOptions) (ds []Difference, rev int64, err error) {
	for range 5 { // others write at the same time
		var a at
		if a, err = read(ctx, s, scope); err != nil {
			return nil, 0, err
		}
		unfinished := a.change.Open
		if unfinished {
			_, alive, _, err := s.Get(ctx, keys.Applying)
			if err != nil {
				return nil, 0, err
			}
			if alive || a.change.Scope != scope.String() && !o.Abandon {
				return nil, 0, &BusyError{Change: a.change, Left: !alive}
			}
		}
		ds = a.diff(values)
		batches := batch(ds)
		switch {
		case len(ds) == 0 && !unfinished:
			return nil, a.revision, nil
		case len(batches) <= 1 && !unfinished:
			rev, err = writeOnce(ctx, s, ds, a.generation)
		default:
			if o.Told != nil {
				o.Told(len(ds))
			}
			ds, rev, err = writeMany(ctx, s, scope, values, a.generation, o)
		}
		if !errors.Is(err, errOthers) {
			return ds, rev, err
		}
	}
	return nil, 0, err
}

// errOthers: somebody else has written in between.
var errOthers = errors.New("others change the same keys all the time")

// batch divides differences into those of a transaction each.
func batch(ds []Difference) (batches [][]Difference) {
	from, size := 0, 0
	for i, d := range ds {
		if size += len(d.New) + 200; i-from == atOnce || size > bytesAtOnce {
			batches, from, size = append(batches, ds[from:i]), i, len(d.New)
		}
	}
	if from < len(ds) {
		batches = append(batches, ds[from:])
	}
	return batches
}

func unchanged(s *store.Store, key string, revision int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(s.Key(key)), "=", revision)
}

// ops are the operations of differences, with comparisons of the keys' revisions.
func ops(s *store.Store, ds []Difference) (ifs []clientv3.Cmp, then []clientv3.Op) {
	for _, d := range ds {
		key := d.Item.Key()
		ifs = append(ifs, unchanged(s, key, d.revision))
		if d.New == "" {
			then = append(then, clientv3.OpDelete(s.Key(key)))
		} else {
			then = append(then, clientv3.OpPut(s.Key(key), d.New))
		}
	}
	return ifs, then
}

// writeOnce writes in one transaction.
func writeOnce(ctx context.Context, s *store.Store, ds []Difference, generation int64) (int64, error) {
	ifs, then := ops(s, ds)
	ok, rev, err := s.Commit(ctx, append(ifs, unchanged(s, keys.Generation, generation)), then...)
	if err == nil && !ok {
		err = errOthers
	}
	return rev, err
}

// writeMany writes in several transactions, between two of the key of the generation.
func writeMany(ctx context.Context, s *store.Store, scope keys.Scope, values map[string]string, generation int64, o WriteOptions) (ds []Difference, rev int64, err error) {
	session, err := s.Session(ctx, applyingTTL)
	if err != nil {
		return nil, 0, err
	}
	kept, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = session.Run(kept, func(time.Duration) {}) // without it, others may take over, which the comparison notices
	}()
	defer func() {
		stop()
		<-ended
		_ = session.Close(context.WithoutCancel(ctx)) // it ends by itself
	}()
	c := keys.Change{ID: rand.Text(), Open: true, Scope: scope.String(), By: o.By, Since: time.Now().UTC().Truncate(time.Second)}
	ok, mine, err := s.Commit(ctx,
		[]clientv3.Cmp{unchanged(s, keys.Generation, generation), clientv3.Compare(clientv3.CreateRevision(s.Key(keys.Applying)), "=", 0)},
		clientv3.OpPut(s.Key(keys.Generation), c.Format()),
		clientv3.OpPut(s.Key(keys.Applying), c.ID, clientv3.WithLease(session.ID())))
	switch {
	case err != nil:
		return nil, 0, err
	case !ok:
		return nil, 0, errOthers
	}
	const unfinished = "hosts have changed nothing, and wait until it is applied again: %w"
	// Anew: until now others could write.
	a, err := read(ctx, s, scope)
	if err != nil {
		return nil, 0, fmt.Errorf(unfinished, err)
	}
	ds = a.diff(values)
	own := unchanged(s, keys.Generation, mine)
	for _, b := range batch(ds) {
		_, then := ops(s, b)
		if err := again(ctx, s, own, then); err != nil {
			return nil, 0, fmt.Errorf(unfinished, err)
		}
	}
	c.Open = false
	ok, rev, err = s.Commit(ctx, []clientv3.Cmp{own}, clientv3.OpPut(s.Key(keys.Generation), c.Format()), clientv3.OpDelete(s.Key(keys.Applying)))
	if errors.Is(err, store.ErrUnknown) {
		e, _, at, readErr := s.Get(ctx, keys.Generation)
		if now := keys.ParseChange(e.Value); readErr == nil && now.ID == c.ID && !now.Open {
			return ds, at, nil
		}
	}
	if err == nil && !ok {
		err = errTaken
	}
	return ds, rev, err
}

// errTaken: this change lost its lease, and another took its place.
var errTaken = fmt.Errorf("%w: another change has taken the place of this one, which etcd did not hear of in time", nat.ErrConflict)

// again does operations that may be done twice, while a condition holds.
func again(ctx context.Context, s *store.Store, own clientv3.Cmp, then []clientv3.Op) (err error) {
	for range 3 {
		var ok bool
		ok, _, err = s.Commit(ctx, []clientv3.Cmp{own}, then...)
		switch {
		case err == nil && !ok:
			return errTaken
		case !errors.Is(err, store.ErrUnknown):
			return err
		}
	}
	return err
}

// Read returns what is desired of a scope as a state, whose file Values makes the same again of.
func Read(ctx context.Context, s *store.Store, scope keys.Scope) (nat.State, error) {
	a, err := read(ctx, s, scope)
	if err != nil {
		return nat.State{}, err
	}
	var st nat.State
	for _, key := range slices.Sorted(maps.Keys(a.entries)) {
		i, _ := keys.ParseItem(key)
		if i.Kind == keys.KindNetwork {
			n, err := keys.ParseNetwork(i.Name, a.entries[key].Value)
			if err != nil {
				return st, fmt.Errorf("%s: %w", i, err)
			}
			n.Name = i.Name
			st.Networks = append(st.Networks, n)
			continue
		}
		ms, err := keys.ParseMappings(i.Name, a.entries[key].Value)
		if err != nil {
			return st, fmt.Errorf("%s: %w", i, err)
		}
		for _, m := range ms {
			m.Name = i.Name
			st.Mappings = append(st.Mappings, m)
		}
	}
	return st, nil
}
