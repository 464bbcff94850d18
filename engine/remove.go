// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// Remove removes mappings, all or none, in one transaction, and returns what they were.
// When it returns, new connections are refused, and UDP flows have ended.
//
// Errors: ErrNotFound if one of the ports is not published with just this frontend, leads
// elsewhere than an exact removal says, or has another name than is given, or if no mapping has
// the name; ErrInvalid for what cannot be a name. On any error nothing has changed.
func (e *Engine) Remove(ctx context.Context, r nat.Removal) ([]nat.Mapping, error) {
	return update(ctx, e, func(c *core) ([]nat.Mapping, error) { return c.remove(ctx, r) })
}

func (e *core) remove(ctx context.Context, r nat.Removal) (done []nat.Mapping, err error) {
	what := describeAll(r.Mappings)
	if r.Name != "" {
		if err := nat.ValidateName(r.Name); err != nil {
			return nil, err
		}
		if r.Name = nat.Name(r.Name); len(r.Mappings) == 0 {
			what = fmt.Sprintf("all of %q", r.Name)
		}
	}
	err = e.retryOnConflict(ctx, func() error {
		c := change{killTCP: r.Kill}
		if c.Removed, err = e.removed(r); err != nil || len(c.Removed) == 0 {
			return err
		}
		done = portset.Collapse(c.Removed)
		return e.commit(ctx, c)
	})
	if err != nil {
		return nil, fmt.Errorf("unpublish %s: %w", what, err)
	}
	return done, nil
}

// removed are the ports that a removal removes, each once.
func (l *published) removed(r nat.Removal) (gone []portset.Port, err error) {
	if r.Name != "" && len(r.Mappings) == 0 {
		for p := range l.mappings.All {
			if p.Name == r.Name {
				gone = append(gone, p)
			}
		}
		if len(gone) == 0 {
			return nil, &missingError{"mapping named", r.Name}
		}
		return gone, nil
	}
	for i := range r.Mappings {
		m := &r.Mappings[i]
		if m.More == 0 || !r.Exact { // not exact: the backends say nothing
			if gone, err = l.have(gone, portset.Whole(m), &r); err != nil {
				return nil, err
			}
			continue
		}
		for whole := range portset.Expand(m) {
			if gone, err = l.have(gone, whole, &r); err != nil {
				return nil, err
			}
		}
	}
	if len(r.Mappings) > 1 {
		gone = portset.Distinct(gone)
	}
	return gone, nil
}

// have appends what is published at the frontends of a port or a range.
func (l *published) have(all []portset.Port, whole portset.Port, r *nat.Removal) ([]portset.Port, error) {
	if whole.More == 0 {
		if err := l.haveOne(&whole, l.mappings.Find(whole.Frontend), r); err != nil {
			return nil, err
		}
		return append(all, whole), nil
	}
	for p, have := range l.mappings.Split(whole) {
		if err := l.haveOne(&p, have, r); err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// haveOne gives a port or a range the target that it has.
func (l *published) haveOne(p *portset.Port, have *portset.Target, r *nat.Removal) error {
	if have == nil {
		return l.notPublished(p.Frontend)
	}
	// What was named is not there, so that it is no conflict.
	is := nat.ConflictError{Have: portset.Port{Frontend: p.Frontend, Target: *have, More: p.More}.Mapping()}
	switch {
	case r.Exact && have.Backend != p.Backend:
		return fmt.Errorf("%s is %w: %s", p.Mapping(), nat.ErrNotFound, is.Error())
	case r.Name != "" && have.Name != r.Name:
		return fmt.Errorf("%s of %q is %w: %s", nat.DescribeFrontend(is.Have), r.Name, nat.ErrNotFound, is.Error())
	}
	p.Target = *have
	return nil
}

// notPublished returns the error for a frontend that is not published. It names the
// published frontend that differs only in the address.
func (l *published) notPublished(f portset.Frontend) error {
	err := fmt.Errorf("%s is %w", nat.DescribeFrontend(f.Mapping(portset.Target{})), nat.ErrNotFound)
	for _, a := range []netip.Addr{{}, netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		near := portset.Frontend{Proto: f.Proto, AddrPort: netip.AddrPortFrom(a, f.AddrPort.Port())}
		if t, ok := l.mappings.Get(near); ok {
			return fmt.Errorf("%w; %s is", err, nat.DescribeFrontend(near.Mapping(t)))
		}
	}
	return err
}
