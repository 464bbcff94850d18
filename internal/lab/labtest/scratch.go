// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"os"
	"testing"
)

// envScratch names the directory of [Scratch].
const envScratch = "NFTNAT_TEST_SCRATCH"

// Scratch is a directory for what all tests of a package share, such as a program that
// they build, if TestMain calls [MainWithScratch].
func Scratch() string { return os.Getenv(envScratch) }

// MainWithScratch is [Main] with a [Scratch]. That is made and removed by the process
// that Main starts the tests from, which outlives them whatever their end is.
func MainWithScratch(m *testing.M) (code int) {
	if Scratch() != "" {
		return Main(m)
	}
	dir, err := os.MkdirTemp("", "nftnat-test-")
	if err == nil {
		err = os.Setenv(envScratch, dir)
	}
	if err != nil {
		return complain("scratch directory: %v", err)
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			code = complain("scratch directory: %v", err)
		}
	}()
	return Main(m)
}
