// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"context"
	"errors"

	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/nat"
)

// netChange is what becomes of a network.
type netChange struct {
	thing
	fault keys.Fault // with key and revision
	have  bool
	want  *nat.Network
}

// netChange returns what makes a network what an item says; nil: there is to be none.
func (r *Reconciler) netChange(t thing, it *item) (c netChange, differs bool) {
	have, ok := r.networks[t.name]
	c = netChange{thing: t, have: ok}
	if it == nil {
		return c, ok
	}
	c.fault, c.want = keys.Fault{Key: it.Key(), Revision: it.revision}, it.network
	return c, !ok || !sameNetwork(have, *it.network)
}

// sameNetwork compares but for where the search for an address goes on, and a gateway that was not given.
func sameNetwork(have, want nat.Network) bool {
	have.Next = want.Next
	if !want.Gateway.IsValid() {
		want.Gateway = have.Gateway
	}
	return have == want
}

// createNetworks is done before mappings are published, and removeNetworks after some were unpublished:
// a network is not part of their transaction.
func (r *Reconciler) createNetworks(ctx context.Context, cs []netChange, faults map[thing]keys.Fault) error {
	for _, c := range cs {
		if c.want == nil {
			continue
		}
		was := r.networks[c.name]
		if c.have {
			if err := r.removeNetwork(ctx, c, faults); err != nil {
				return err
			}
			if _, refused := faults[c.thing]; refused {
				continue
			}
		}
		n, err := r.daemon.CreateNetwork(ctx, *c.want)
		if err != nil && !refusal(err) {
			return err
		}
		if err != nil {
			c.fault.Reason = err.Error()
			faults[c.thing] = c.fault
			if !c.have {
				continue
			}
			was.Next = nat.Network{}.Next
			if n, err = r.daemon.CreateNetwork(ctx, was); err != nil { // the host keeps what it had
				return err
			}
		}
		r.networks[c.name] = n
	}
	return nil
}

func (r *Reconciler) removeNetworks(ctx context.Context, cs []netChange, faults map[thing]keys.Fault) error {
	for _, c := range cs {
		if c.want != nil {
			continue
		}
		if err := r.removeNetwork(ctx, c, faults); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reconciler) removeNetwork(ctx context.Context, c netChange, faults map[thing]keys.Fault) error {
	err := r.daemon.RemoveNetwork(ctx, keys.NetworkPrefix+c.name)
	switch {
	case err == nil, errors.Is(err, nat.ErrNotFound):
		delete(r.networks, c.name)
	case refusal(err): // it has endpoints
		if c.fault.Reason = err.Error(); c.fault.Key == "" {
			c.fault.Key = "network " + c.name
		}
		faults[c.thing] = c.fault
	default:
		return err
	}
	return nil
}
