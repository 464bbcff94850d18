// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"testing"
	"time"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// awaitAttempts bounds await to half a minute on an idle machine: pauses double up to
// 100 ms.
var awaitAttempts = 300 * labtest.Slowdown()

// await waits until done returns true.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	pause := time.Millisecond
	for range awaitAttempts {
		if done() {
			return
		}
		time.Sleep(pause)
		pause = min(2*pause, 100*time.Millisecond)
	}
	t.Fatalf("waited in vain for %s", what)
}
