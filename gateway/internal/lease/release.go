// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/nftnat/nftnat/nat"
)

// Release ends the lease of a client's port, of NAT-PMP or PCP. What is not there is no error.
//
// Errors: [ErrKey] if it is PCP's and has another nonce, or NAT-PMP asks; [ErrOther] if an operator's mapping or
// a lease of IGD leads to the port; [ErrDaemon].
func (l *Leases) Release(ctx context.Context, kind Kind, key string, client netip.Addr, p nat.Proto, internal uint16) error {
	err := l.release(ctx, target{client, p, internal}, func(have *entry) error {
		switch {
		case have.Kind == 0, have.Kind == IGD:
			return ErrOther
		case have.Kind == PCP && (kind != PCP || key != have.Key):
			return ErrKey
		}
		return nil
	})
	return l.unreleased(kind, client, fmt.Sprintf("release of %s %d", p, internal), err)
}

// ReleaseAll ends all leases of a client and a protocol that it may end by NAT-PMP: those of NAT-PMP. The error is
// [ErrOther] if something else leads to a port of the client, and stays.
func (l *Leases) ReleaseAll(ctx context.Context, kind Kind, client netip.Addr, p nat.Proto) error {
	l.mu.Lock()
	var all []target
	var left error
	if c := l.index.clients[client]; c != nil {
		for t := range c.targets {
			switch {
			case t.proto != p:
			case l.index.find(t).Kind == kind && kind == PMP:
				all = append(all, t)
			default:
				left = ErrOther
			}
		}
	}
	l.mu.Unlock()
	var errs []error
	for _, t := range all {
		errs = append(errs, l.release(ctx, t, func(have *entry) error {
			if have.Kind != kind {
				return ErrOther
			}
			return nil
		}))
	}
	err := errors.Join(errs...)
	if err == nil {
		err = left
	}
	return l.unreleased(kind, client, fmt.Sprintf("release of all of %s", p), err)
}

// ReleaseExternal ends a client's lease of a port of the WAN, of IGD.
//
// Errors: [ErrNone] if the port is free; [ErrOther] if it is another client's, or no lease of IGD; [ErrDaemon].
func (l *Leases) ReleaseExternal(ctx context.Context, client netip.Addr, p nat.Proto, external uint16) error {
	at := slot{p, external}
	l.mu.Lock()
	e := l.index.entries[at]
	l.mu.Unlock()
	err := ErrNone
	if e != nil {
		found := false
		err = l.releaseSlot(ctx, e.target(), func() *entry { return l.index.entries[at] }, func(have *entry) error {
			if found = true; have.Kind != IGD || have.Client != client {
				return ErrOther
			}
			return nil
		})
		if err == nil && !found {
			err = ErrNone
		}
	}
	return l.unreleased(IGD, client, fmt.Sprintf("release of port %s %d", p, external), err)
}

// unreleased records a refusal, if err is one, and returns it.
func (l *Leases) unreleased(kind Kind, client netip.Addr, request string, err error) error {
	if err != nil {
		l.Refuse(kind, client, request, err.Error())
	}
	return err
}

// release ends what find returns for a target, if may has nothing against it.
func (l *Leases) release(ctx context.Context, t target, may func(*entry) error) error {
	return l.releaseSlot(ctx, t, func() *entry { return l.index.find(t) }, may)
}

func (l *Leases) releaseSlot(ctx context.Context, t target, find func() *entry, may func(*entry) error) error {
	if err := l.await1st(ctx); err != nil {
		return err
	}
	l.mu.Lock()
	for l.busy[t] != nil {
		wait := l.busy[t]
		l.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrDaemon, ctx.Err())
		}
		l.mu.Lock()
	}
	have := find()
	if have == nil {
		l.mu.Unlock()
		return nil
	}
	if err := may(have); err != nil {
		l.mu.Unlock()
		return err
	}
	done := make(chan struct{})
	l.busy[t] = done
	want := have.Lease
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.busy, t)
		l.mu.Unlock()
		close(done)
	}()
	m, err := want.mapping()
	if err != nil {
		return err
	}
	w := &waiter{want: want, gone: true}
	l.expect(w)
	err = l.try(ctx, func(ctx context.Context) error {
		_, err := l.daemon.Remove(ctx, nat.Removal{Mappings: []nat.Mapping{m}, Exact: true, Name: m.Name})
		return err
	})
	if errors.Is(err, nat.ErrNotFound) || errors.Is(err, nat.ErrConflict) { // it is gone, or another one by now
		err = nil
	}
	l.await(w, err == nil)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDaemon, err)
	}
	return nil
}
