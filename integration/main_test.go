// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"testing"

	"github.com/nftnat/nftnat/lab/labtest"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(envChild); role != "" {
		os.Exit(runChild(role))
	}
	os.Exit(runTests(m))
}

// envScratch names a directory for what all tests share. It is made and removed by
// the process that labtest.Main starts the tests from, which outlives them whatever
// their end is.
const envScratch = "NFTNAT_TEST_SCRATCH"

func runTests(m *testing.M) (code int) {
	if os.Getenv(envScratch) != "" {
		return labtest.Main(m)
	}
	dir, err := os.MkdirTemp("", "nftnat-integration-")
	if err == nil {
		err = os.Setenv(envScratch, dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return labtest.Main(m)
}
