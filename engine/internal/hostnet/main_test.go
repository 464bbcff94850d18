// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"os"
	"testing"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// TestMain puts the tests into namespaces of their own.
func TestMain(m *testing.M) {
	if table := os.Getenv(envHold); table != "" {
		os.Exit(holdLock(table)) // started by a test
	}
	os.Exit(labtest.Main(m))
}
