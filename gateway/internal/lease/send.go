// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// batch is the most leases that are published in one transaction.
const batch = 256

// order is a lease to be published with others.
type order struct {
	mapping nat.Mapping
	done    chan error // has room for one
}

// publish has a change made, and waits until it is in the index. The error is an [*TakenError] or one of the others of Grant.
func (l *Leases) publish(ctx context.Context, c *change) (err error) {
	w := &waiter{want: c.want, met: func() { l.count(c) }}
	l.expect(w)
	defer func() { l.await(w, err == nil) }()
	if c.replaces != "" {
		err = l.try(ctx, func(ctx context.Context) error {
			_, err := l.daemon.Publish(ctx, nat.PublishOptions{Replace: true, IfName: c.replaces}, c.mapping)
			return err
		})
	} else {
		o := &order{c.mapping, make(chan error, 1)}
		select {
		case l.queue <- o:
			err = <-o.done
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		return l.explain(c, err)
	}
	return nil
}

// send publishes what is asked for, until ctx is done. What waits while the daemon works goes there together.
func (l *Leases) send(ctx context.Context) {
	for {
		var orders []*order
		select {
		case <-ctx.Done():
			return
		case o := <-l.queue:
			orders = append(orders, o)
		}
	more:
		for len(orders) < batch {
			select {
			case o := <-l.queue:
				orders = append(orders, o)
			default:
				break more
			}
		}
		l.publishAll(ctx, orders)
	}
}

// publishAll publishes leases in one transaction, or each by itself if the daemon refuses one of them.
func (l *Leases) publishAll(ctx context.Context, orders []*order) {
	ms := make([]nat.Mapping, len(orders))
	for i, o := range orders {
		ms[i] = o.mapping
	}
	publish := func(ms ...nat.Mapping) error {
		return l.try(ctx, func(ctx context.Context) error {
			_, err := l.daemon.Publish(ctx, nat.PublishOptions{}, ms...)
			return err
		})
	}
	err := publish(ms...)
	for _, o := range orders {
		if err != nil && len(orders) > 1 && isRefusal(err) {
			o.done <- publish(o.mapping)
		} else {
			o.done <- err
		}
	}
}

// isRefusal reports whether the daemon has answered, and would give the same answer again.
func isRefusal(err error) bool {
	for _, refusal := range []error{nat.ErrConflict, nat.ErrInvalid, nat.ErrExhausted, nat.ErrNotFound, fs.ErrPermission} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}

// try calls the daemon, and again while it does not answer, for at most downTime. Doing a change twice does no harm.
func (l *Leases) try(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, lastTime)
	defer cancel()
	began := time.Now()
	for pause := firstPause; ; pause = min(2*pause, lastPause/4) {
		err := call(ctx)
		if err == nil || isRefusal(err) || ctx.Err() != nil || time.Since(began) > downTime || l.isDown() {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// lastTime bounds a call of the daemon. A client that has not been answered by then has asked again.
const lastTime = 10 * time.Second

// isDown reports whether the daemon has not answered for so long that it is not waited for.
func (l *Leases) isDown() bool {
	since, _ := l.Down()
	return !since.IsZero() && l.now().Sub(since) > downTime
}

// explain returns the error of this package for one of the daemon's.
func (l *Leases) explain(c *change, err error) error {
	port := c.want.External
	var held *nat.HeldError
	switch {
	case errors.As(err, &held):
		l.mu.Lock()
		l.index.ports.hold(port, held.Error(), l.now())
		l.mu.Unlock()
		return &TakenError{Proto: c.want.Proto, Port: port, Holder: held.Error(), Other: true}
	case errors.Is(err, nat.ErrConflict):
		l.mu.Lock()
		l.index.ports.hold(port, err.Error(), l.now())
		l.mu.Unlock()
		return &TakenError{Proto: c.want.Proto, Port: port, Holder: err.Error(), Other: true}
	case errors.Is(err, nat.ErrInvalid):
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	case errors.Is(err, nat.ErrExhausted):
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return fmt.Errorf("%w: %w", ErrDaemon, err)
}
