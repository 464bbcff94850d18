// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"

	"github.com/nftnat/nftnat/nat"
)

// Health returns nil if the engine works. Errors: ErrClosed; those of the kernel;
// fs.ErrNotExist if the table is missing; that of the context if a change takes longer. It
// asks the kernel for the table only, and changes nothing.
func (e *Engine) Health(ctx context.Context) error {
	if err := e.mu.lockContext(ctx); err != nil {
		return fmt.Errorf("a change has been going on: %w", err)
	}
	defer e.mu.Unlock()
	if e.core.closed {
		return nat.ErrClosed
	}
	return e.core.table.Check()
}
