// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Require skips the test if no namespaces can be made, or fails it with
// NFTNAT_TEST_NETNS=require. [NewNS] and [NewTopology] call it.
func Require(tb testing.TB) {
	tb.Helper()
	switch {
	case os.Getenv(envSkip) != "":
		Skip(tb, "needs network namespaces: "+os.Getenv(envSkip))
	case os.Getenv(envInside) == "":
		tb.Fatal("TestMain does not call labtest.Main: this test would run in the machine's own network")
	}
}

// Tool returns the path of a program that the test needs. It looks in PATH and in the sbin
// directories. If there is none, the test is skipped, or fails with
// NFTNAT_TEST_NETNS=require.
func Tool(tb testing.TB, name string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	Skip(tb, err.Error())
	return ""
}

// Skip skips a test for a reason such as a missing program, or fails it with
// NFTNAT_TEST_NETNS=require.
func Skip(tb testing.TB, reason string) {
	tb.Helper()
	if required() {
		tb.Fatal(reason)
	}
	tb.Skip(reason)
}
