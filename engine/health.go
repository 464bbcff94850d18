// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"

	"github.com/nftnat/nftnat/nat"
)

// Health returns why the engine cannot do its work, or nil: ErrClosed, what the kernel
// answers, fs.ErrNotExist if the table is not in the kernel although something is
// published, or, if a change takes until the context is done, the context's error. It asks
// the kernel for the table alone, and changes nothing.
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
