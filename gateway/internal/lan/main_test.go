// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"os"
	"testing"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// TestMain puts the tests into namespaces of their own.
func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }
