// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"

	"github.com/nftnat/nftnat/engine/internal/table"
)

// watcher returns a watcher of the table. An owned table is watched too: the ownership can
// be lost.
func (e *Engine) watcher() *table.Watcher {
	return &table.Watcher{Name: e.core.opts.Table, Log: e.core.opts.Log, Watch: e.watchTable, Check: e.checkTable, Stopped: e.core.closing}
}

// checkTable loads the table, and repairs it or accepts changes by other programs.
func (e *Engine) checkTable() (repaired bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.core
	if c.closed || !c.table.Present() && !c.table.Stale() {
		return false, nil // there is no table to check
	}
	before := c.table.Counts().Repaired
	c.table.MarkStale()
	if err = c.resync(context.Background()); err != nil {
		c.table.NoteFailedCheck()
	}
	return c.table.Counts().Repaired != before, err
}

// watchTable calls changed when other programs may have changed the table, until the
// context is done or the netlink socket is replaced. The error is table.ErrStopped if the
// engine is closed.
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
