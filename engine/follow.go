// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
)

// follow looks at the host anew and brings about what the published mappings need of it:
// they work as if they had been published now. Open calls it, and Run after each change of
// the host. Each step starts from what it finds, does nothing if nothing is to be done, and
// does not depend on the steps before: a failed one keeps none of the others from being
// made.
func (e *core) follow(ctx context.Context) error {
	if e.closed || e.opts.ReadOnly {
		return nil
	}
	if err := e.resync(ctx); err != nil {
		return err
	}
	return errors.Join()
}
