// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package space

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/nat"
)

// Shared is a shared network as etcd has it, or a pool of ports.
type Shared struct {
	// Definition is zero but for its name if it is a pool of ports.
	Definition
	// Size is how many blocks there are.
	Size uint64
	// Held has the blocks of each host, in the order of their numbers.
	Held map[string][]uint64
}

// Block describes a block: its prefix, or its ports.
func (s Shared) Block(index uint64) string {
	if s.Prefix.IsValid() {
		return s.BlockPrefix(index).String()
	}
	first := firstPort + index*portBlock
	return fmt.Sprintf("%d-%d", first, first+portBlock-1)
}

// List returns the shared networks and the pools of ports, by name, and what keeps hosts from leasing, if
// something does.
func List(ctx context.Context, s *store.Store) (all []Shared, closed error, err error) {
	m, err := readAll(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(m.pools)) {
		p := m.pools[name]
		if p.ring == nil {
			continue
		}
		one := Shared{Definition: p.def, Size: p.ring.size, Held: map[string][]uint64{}}
		one.Name = name
		for _, i := range slices.Sorted(maps.Keys(p.ring.blocks)) {
			if host := p.ring.blocks[i].host; host != "" {
				one.Held[host] = append(one.Held[host], i)
			}
		}
		all = append(all, one)
	}
	if m.closed != nil {
		closed = m.closedError()
	}
	return all, closed, nil
}

// Find returns the shared network of a name. The error is nat.ErrNotFound if there is none.
func Find(ctx context.Context, s *store.Store, name string) (Shared, error) {
	all, _, err := List(ctx, s)
	if err != nil {
		return Shared{}, err
	}
	for _, one := range all {
		if one.Name == name && one.Prefix.IsValid() {
			return one, nil
		}
	}
	return Shared{}, noNetwork(name)
}

// readAll reads all there is. The manager that it returns is of no host.
func readAll(ctx context.Context, s *store.Store) (*Manager, error) {
	snap, err := s.List(ctx, keys.Spaces)
	if err != nil {
		return nil, err
	}
	m := New(Options{Store: s})
	m.Update(store.Update{Revision: snap.Revision, Whole: true, Entries: snap.Entries})
	if len(m.faults) != 0 {
		return nil, errors.New(strings.Join(m.faults, "; "))
	}
	return m, nil
}

// Create declares a shared network. local are the networks of this host, which it must not overlap. The same
// again changes nothing. The error is a [*nat.InvalidError], or a [*nat.TakenError] if there is another of the
// name or one that overlaps it; nothing has changed then.
func Create(ctx context.Context, s *store.Store, d Definition, local []nat.Network) (Definition, error) {
	d = d.WithDefaults()
	if err := d.Validate(); err != nil {
		return Definition{}, err
	}
	if err := apart(d, local); err != nil {
		return Definition{}, err
	}
	for range 3 {
		done, err := create(ctx, s, d)
		if done || err != nil {
			return d, err
		}
	}
	return Definition{}, fmt.Errorf("create shared network %s: others create networks all the time: try again", d.Name)
}

func create(ctx context.Context, s *store.Store, d Definition) (done bool, err error) {
	m, err := readAll(ctx, s)
	if err != nil {
		return false, err
	}
	for _, name := range slices.Sorted(maps.Keys(m.pools)) {
		p := m.pools[name]
		switch {
		case p.at == 0:
		case p.def == d:
			return true, nil
		case name == d.Name:
			return false, &nat.TakenError{What: "shared network " + name + " " + p.def.String()}
		case p.def.Prefix.Overlaps(d.Prefix):
			return false, &nat.TakenError{What: "prefix " + d.Prefix.String(), Holder: "shared network " + name + " " + p.def.Prefix.String()}
		}
	}
	turn, _, _, err := s.Get(ctx, keys.SpaceNetworks)
	if err != nil {
		return false, err
	}
	if turn.Modified > m.at {
		return false, nil
	}
	key, turns := s.Key(keys.Space(d.Name)), s.Key(keys.SpaceNetworks)
	ok, _, err := s.Commit(ctx, []clientv3.Cmp{
		clientv3.Compare(clientv3.ModRevision(turns), "=", turn.Modified),
		clientv3.Compare(clientv3.CreateRevision(key), "=", 0),
	}, clientv3.OpPut(key, d.String()), clientv3.OpPut(turns, d.Name))
	if errors.Is(err, store.ErrUnknown) {
		if e, found, _, readErr := s.Get(ctx, keys.Space(d.Name)); readErr == nil && found && e.Value == d.String() {
			return true, nil
		}
	}
	return ok, err
}

// Remove removes a shared network of which no host holds a block. The error is nat.ErrNotFound if there is none, and
// a [*nat.TakenError] that names the hosts otherwise.
func Remove(ctx context.Context, s *store.Store, name string) error {
	m, err := readAll(ctx, s)
	if err != nil {
		return err
	}
	p := m.pools[name]
	if p == nil || p.at == 0 {
		return noNetwork(name)
	}
	if by := p.ring.held(); len(by) != 0 {
		return &nat.TakenError{What: "shared network " + name, Holder: "blocks of host " + strings.Join(slices.Sorted(maps.Keys(by)), ", ")}
	}
	// A block that is acquired meanwhile is compared with the definition, and the definition with what was read.
	def := s.Key(keys.Space(name))
	blocks := s.Key(keys.Blocks(name))
	newer := clientv3.Compare(clientv3.ModRevision(blocks).WithPrefix(), "<", m.at+1)
	ok, _, err := s.Commit(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(def), "=", p.at), newer},
		clientv3.OpDelete(def), clientv3.OpDelete(blocks, clientv3.WithPrefix()))
	if err == nil && !ok {
		err = &nat.TakenError{What: "shared network " + name, Holder: "a host that has just acquired or given back a block: try again"}
	}
	return err
}

// Forget takes all blocks from a host that is dead, and returns them as text. Whoever does this while the host is alive has its
// addresses leased twice; so the error is a [*nat.TakenError] while its agent runs.
func Forget(ctx context.Context, s *store.Store, host string) (freed []string, err error) {
	if err := keys.ValidateName("host", host); err != nil {
		return nil, err
	}
	_, alive, _, err := s.Get(ctx, keys.Host(host))
	switch {
	case err != nil:
		return nil, err
	case alive:
		return nil, &nat.TakenError{What: "name " + host, Holder: "an agent that runs; a host is forgotten when it is dead"}
	}
	m, err := readAll(ctx, s)
	if err != nil {
		return nil, err
	}
	_, member := m.hosts[host]
	if !member && !slices.ContainsFunc(slices.Collect(maps.Values(m.pools)), func(p *pool) bool { return p.ring != nil && len(p.ring.of(host)) != 0 }) {
		return nil, missingError(fmt.Sprintf("no host %q has taken part", host))
	}
	dead := clientv3.Compare(clientv3.CreateRevision(s.Key(keys.Host(host))), "=", 0)
	// First it cannot acquire any more.
	if ok, _, err := s.Commit(ctx, []clientv3.Cmp{dead}, clientv3.OpDelete(s.Key(keys.SpaceHost(host)))); err != nil || !ok {
		return nil, cameBack(err, host)
	}
	for _, name := range slices.Sorted(maps.Keys(m.pools)) {
		p := m.pools[name]
		if p.ring == nil {
			continue
		}
		all := Shared{Definition: p.def}
		for _, i := range p.ring.of(host) {
			key := s.Key(keys.Block(name, i))
			same := clientv3.Compare(clientv3.ModRevision(key), "=", p.ring.blocks[i].modified)
			ok, _, err := s.Commit(ctx, []clientv3.Cmp{dead, same}, clientv3.OpPut(key, keys.FreeBlock))
			if err != nil || !ok {
				return freed, cameBack(err, host)
			}
			freed = append(freed, name+" "+all.Block(i))
		}
	}
	return freed, nil
}

// cameBack is the error of a transaction that failed, or whose comparisons did not hold.
func cameBack(err error, host string) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("host %s came back meanwhile", host)
}

// Resume has hosts lease again, though some have not claimed what they hold since etcd was restored. The error is nat.ErrNotFound if nothing
// keeps them from it.
func Resume(ctx context.Context, s *store.Store) error {
	_, found, _, err := s.Get(ctx, keys.SpaceClosed)
	if err == nil && !found {
		err = missingError("nothing keeps hosts from leasing")
	}
	if err != nil {
		return err
	}
	_, _, err = s.Commit(ctx, nil, clientv3.OpDelete(s.Key(keys.SpaceClosed)))
	return err
}
