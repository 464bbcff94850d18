// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package float

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/nat"
)

// Create makes an address a floating one of the hosts of a scope, on the interface of a name
// there. Doing it again is no error; with another interface it is [nat.ErrConflict].
func Create(ctx context.Context, st *store.Store, scope keys.Scope, a netip.Addr, dev string) (created bool, err error) {
	if err := scope.Validate(); err != nil {
		return false, err
	}
	if err := keys.ValidateDevice(dev); err != nil {
		return false, err
	}
	item, value := keys.FloatItem(scope, a), keys.FormatDevice(dev)
	key := st.Key(item.Key())
	ok, _, err := st.Commit(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), "=", 0)}, clientv3.OpPut(key, value))
	if errors.Is(err, store.ErrUnknown) || err == nil && !ok {
		entry, found, _, got := st.Get(ctx, item.Key())
		switch {
		case got != nil:
			return false, errors.Join(err, got)
		case found && entry.Value == value:
			return err != nil, nil
		case found:
			return false, fmt.Errorf("floating address %s of %s: %w: it has %s", a, scope, nat.ErrConflict, strings.TrimSpace(entry.Value))
		}
	}
	return ok, err
}

// Remove makes an address no longer a floating one of a scope. Its holder removes it from its
// interface, if it floats there by no other scope. The error is [nat.ErrNotFound] if it was none.
func Remove(ctx context.Context, st *store.Store, scope keys.Scope, a netip.Addr) error {
	key := st.Key(keys.FloatItem(scope, a).Key())
	ok, _, err := st.Commit(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), ">", 0)}, clientv3.OpDelete(key))
	if err == nil && !ok {
		return fmt.Errorf("floating address %s of %s: %w", a, scope, nat.ErrNotFound)
	}
	return err
}

// Row is a floating address of a scope.
type Row struct {
	Addr  netip.Addr
	Scope keys.Scope
	Dev   string
	// Holder has it now; without a name: nobody.
	Holder keys.Holder
	// Epoch is of the last time that it was taken; zero: never.
	Epoch keys.Epoch
}

// List returns all floating addresses, by address and scope.
func List(ctx context.Context, st *store.Store) ([]Row, error) {
	desired, err := st.List(ctx, keys.Desired)
	if err != nil {
		return nil, err
	}
	floats, err := st.List(ctx, "float")
	if err != nil {
		return nil, err
	}
	holders, epochs := make(map[netip.Addr]keys.Holder), make(map[netip.Addr]keys.Epoch)
	for _, e := range floats.Entries {
		if a, ok := address(e.Key, keys.Floats); ok {
			holders[a], _ = keys.ParseHolder(e.Value)
		}
		if a, ok := address(e.Key, keys.FloatEpochs); ok {
			epochs[a], _ = keys.ParseEpoch(e.Value)
		}
	}
	var rows []Row
	for _, e := range desired.Entries {
		i, err := keys.ParseItem(e.Key)
		if err != nil || i.Kind != keys.KindFloat {
			continue
		}
		a, err := keys.FloatAddr(i)
		if err != nil {
			continue // agents report it
		}
		dev, _ := keys.ParseDevice(e.Value)
		rows = append(rows, Row{Addr: a, Scope: i.Scope, Dev: dev, Holder: holders[a], Epoch: epochs[a]})
	}
	slices.SortStableFunc(rows, func(a, b Row) int {
		if c := a.Addr.Compare(b.Addr); c != 0 {
			return c
		}
		return strings.Compare(a.Scope.String(), b.Scope.String())
	})
	return rows, nil
}

// requestTime is the lease of a request to hand over: nobody hands over an address long after
// the command has ended.
const requestTime = 10 * time.Second

// errDone ends the following of etcd.
var errDone = errors.New("done")

// HandOver moves an address to a host, and returns when that host serves it. The holder does
// it: the other host publishes, adds the address and announces it, and only then does the old
// holder remove it. New connections go on all the while. Established ones go on if their
// backend sees the clients' addresses, and are reset if it does not.
//
// If the holder is dead, nothing is handed over: another host takes the address by itself.
func HandOver(ctx context.Context, st *store.Store, a netip.Addr, to string) error {
	if err := keys.ValidateName("host", to); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	holder, found, _, err := st.Get(ctx, keys.Float(a))
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("hand over %s: %w: no host holds it", a, nat.ErrNotFound)
	}
	if h, _ := keys.ParseHolder(holder.Value); h == (keys.Holder{Host: to, Serving: true}) {
		return nil
	}
	if err := candidate(ctx, st, a, to); err != nil {
		return fmt.Errorf("hand over %s: host %s: %w", a, to, err)
	}
	session, err := requestHandOver(ctx, st, a, to)
	if session != nil { // the request ends with the command
		defer func() { _ = session.Close(context.WithoutCancel(ctx)) }()
	}
	if err == nil {
		err = await(ctx, st, a, to)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("host %s does not serve it after %v", to, requestTime)
	}
	if err != nil {
		return fmt.Errorf("hand over %s: %w", a, err)
	}
	return nil
}

// candidate reports whether a host may hold an address: its agent runs, and the address floats
// there.
func candidate(ctx context.Context, st *store.Store, a netip.Addr, host string) error {
	e, found, _, err := st.Get(ctx, keys.Host(host))
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("%w: its agent does not run", nat.ErrNotFound)
	}
	agent, err := keys.ParseAgent(e.Value)
	if err != nil {
		return fmt.Errorf("read its key: %w", err)
	}
	scopes := []keys.Scope{keys.OfHost(host), keys.All()}
	for _, g := range agent.Groups {
		scopes = append(scopes, keys.OfGroup(g))
	}
	for _, s := range scopes {
		if _, found, _, err := st.Get(ctx, keys.FloatItem(s, a).Key()); err != nil || found {
			return err
		}
	}
	return fmt.Errorf("%w: the address does not float there", nat.ErrNotFound)
}

// requestHandOver asks the holder, in a key that ends soon.
func requestHandOver(ctx context.Context, st *store.Store, a netip.Addr, to string) (*store.Session, error) {
	session, err := st.Session(ctx, requestTime)
	if err != nil {
		return nil, err
	}
	key := st.Key(keys.FloatRequest(a))
	ok, _, err := st.Commit(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), "=", 0)}, clientv3.OpPut(key, to, clientv3.WithLease(session.ID())))
	if err == nil && !ok {
		err = fmt.Errorf("%w: it is being handed over already", nat.ErrConflict)
	}
	return session, err
}

// await waits until a host serves an address.
func await(ctx context.Context, st *store.Store, a netip.Addr, to string) error {
	want := keys.Holder{Host: to, Serving: true}.String()
	given := false
	err := st.Follow(ctx, keys.Float(a), func(u store.Update) error {
		for _, e := range u.Entries {
			u.Changes = append(u.Changes, store.Change{Entry: e})
		}
		for _, c := range u.Changes {
			if c.Key != keys.Float(a) {
				continue
			}
			if c.Value == want {
				return errDone
			}
			h, _ := keys.ParseHolder(c.Value)
			given = given || h.Host == to
			if given && h.Host != to {
				return fmt.Errorf("host %s could not serve it: see its status", to)
			}
		}
		return nil
	})
	if errors.Is(err, errDone) {
		return nil
	}
	return err
}
