// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
)

// A child is another process of this test binary, which does one thing instead of the
// tests.

const (
	envChild      = "NFTNAT_TEST_CHILD"       // what it does: a case of runChild
	envChildNetNS = "NFTNAT_TEST_CHILD_NETNS" // in which namespace
	envChildArgs  = "NFTNAT_TEST_CHILD_ARGS"  // its arguments, separated by newlines
)

// runChild is the child's main; it returns the exit status.
func runChild(role string) int {
	var err error
	args := strings.Split(os.Getenv(envChildArgs), "\n")
	switch role {
	case "hold":
		err = childHold()
	case "hostile":
		err = childHostile(args[0], args[1])
	case "race":
		err = childRace(args[0], args[1], args[2])
	case "kill":
		err = childKill(args[0], args[1], args[2])
	case "work":
		err = childWork(args[0], args[1], args[2], args[3], args[4], args[5])
	case "refused":
		err = childRefused(args)
	default:
		err = fmt.Errorf("there is no child %q", role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// child prepares one.
func child(t *testing.T, role, netns string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), envChild+"="+role, envChildNetNS+"="+netns, envChildArgs+"="+strings.Join(args, "\n"))
	return cmd
}

// childHold opens an engine, says so, and keeps it until standard input ends.
func childHold() error {
	e, err := engine.Open(context.Background(), engine.Options{NetNS: os.Getenv(envChildNetNS), NoProxies: true, NoOwner: true})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
	return e.Close()
}
