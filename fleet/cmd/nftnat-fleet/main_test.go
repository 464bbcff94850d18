// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"testing"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// asProgram has the test binary be nftnat-fleet.
const asProgram = "NFTNAT_FLEET_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(labtest.Main(m))
}
