// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"

	"github.com/nftnat/nftnat/engine/internal/table"
)

// watcher returns a watcher of the table. A table that is owned cannot be changed, unless
// the ownership is lost; that shows in what others do then.
func (e *Engine) watcher() *table.Watcher {
	return &table.Watcher{Name: e.core.opts.Table, Log: e.core.opts.Log, Watch: e.watchTable, Check: e.checkTable, Stopped: e.core.closing}
}

// checkTable repairs, or takes over, what others have done to the table.
func (e *Engine) checkTable() (repaired bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.core
	if c.closed || !c.table.Present() && !c.table.Stale() {
		return false, nil // nobody can have changed what is not there
	}
	before := c.table.Counts().Repaired
	c.table.MarkStale()
	if err = c.resync(context.Background()); err != nil {
		c.table.NoteFailedCheck()
	}
	return c.table.Counts().Repaired != before, err
}

// watchTable calls changed when others may have changed the table, until the context is
// done or the engine has another socket. The error is table.ErrStopped if it has none.
func (e *Engine) watchTable(ctx context.Context, changed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	e.mu.Lock()
	if e.core.closed {
		e.mu.Unlock()
		return table.ErrStopped
	}
	watch := e.core.table.BeginWatch(cancel)
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.core.table.EndWatch()
	}()
	return watch(ctx, changed)
}
