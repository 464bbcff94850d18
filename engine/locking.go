// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"

	"github.com/nftnat/nftnat/nat"
)

// mutex is a lock that can be waited for until a context is done.
type mutex chan struct{}

func newMutex() mutex { return make(mutex, 1) }

// Lock locks the mutex.
func (m mutex) Lock() { m <- struct{}{} }

// Unlock unlocks it.
func (m mutex) Unlock() { <-m }

// lockContext locks the mutex, or returns the context's error.
func (m mutex) lockContext(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case m <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// view calls f with the engine locked and up to date, for a method that changes nothing.
func view[T any](ctx context.Context, e *Engine, f func(*core) (T, error)) (result T, err error) {
	if err := e.mu.lockContext(ctx); err != nil {
		return result, err
	}
	defer e.mu.Unlock()
	c := e.core
	if c.closed {
		return result, nat.ErrClosed
	}
	if err := c.resync(ctx); err != nil {
		return result, err
	}
	c.forget(c.now())
	return f(c)
}

// update calls f with the engine locked and writable, and fills the report of the context.
// After an error the report is empty.
func update[T any](ctx context.Context, e *Engine, f func(*core) (T, error)) (result T, err error) {
	if err := e.mu.lockContext(ctx); err != nil {
		return result, err
	}
	defer e.mu.Unlock()
	c := e.core
	if report := nat.ReportFrom(ctx); report != nil {
		*report = nat.Report{}
		c.noted.Store(report)
		defer func() {
			c.noted.Store(nil)
			if err != nil {
				*report = nat.Report{}
			}
		}()
	}
	if err = c.writable(); err == nil {
		result, err = f(c)
	}
	return result, err
}
