// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"os"
	"testing"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// envChild makes the test binary play a part that takes a process of its own.
const envChild = "NFTNAT_TEST_API_CHILD"

// quickExit spares a child the second for which the race detector waits at its end.
const quickExit = "GORACE=atexit_sleep_ms=0"

// children are the parts, by name; each returns the exit status.
func children() map[string]func(args []string) int {
	return map[string]func([]string) int{
		"ask":    childAsk,
		"take":   childTake,
		"listen": childListen,
		"serve":  childServe,
	}
}

func TestMain(m *testing.M) {
	if name := os.Getenv(envChild); name != "" {
		child, ok := children()[name]
		if !ok {
			fmt.Fprintf(os.Stderr, "no such part: %q\n", name)
			os.Exit(1)
		}
		os.Exit(child(os.Args[1:]))
	}
	os.Exit(labtest.Main(m))
}
