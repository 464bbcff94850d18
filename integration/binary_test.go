// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// envProgram is the path of a program that has been built already, for machines without Go.
const envProgram = "NFTNAT_TEST_PROGRAM"

// program builds the program that the tests of the command line run, static as in a
// release.
var program = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(envProgram); path != "" {
		return path, nil
	}
	path := filepath.Join(labtest.Scratch(), "nftnat")
	cmd := exec.Command("go", "build", "-o", path, "../cmd/nftnat")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return path, nil
})

// nftnat prepares a command line that uses no daemon; for one with a daemon see testbed.
// Its environment is empty, PATH included, because it must not need other programs.
func nftnat(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	if !slices.ContainsFunc(args, func(word string) bool { return slices.Contains(neverDirect, word) }) {
		args = append([]string{"--direct"}, args...)
	}
	return bare(t, args...)
}

// neverDirect are commands that have nothing to do with a daemon, or are one.
var neverDirect = []string{"plan", "demo", "version", "--version", "completion", "help", "--help", "serve", "events", "__complete"}

// bare prepares a command line without adding options.
func bare(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	if os.Getenv(envProgram) == "" {
		labtest.Tool(t, "go")
	}
	path, err := program()
	require.NoError(t, err)
	cmd := exec.Command(path, args...)
	cmd.Env = []string{"PATH=", "NFTNAT_DOCTOR_INTERVAL=0", "NFTNAT_LOOPBACK=" + os.Getenv("NFTNAT_LOOPBACK")}
	return cmd
}

// programForAll puts the program where other users can read it, and returns what prepares a command
// line of one who has a group and no privilege.
func programForAll(t *testing.T) func(gid uint32, args ...string) *exec.Cmd {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	path := filepath.Join(dir, "nftnat")
	program, err := os.ReadFile(bare(t).Path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, program, 0o755))
	return func(gid uint32, args ...string) *exec.Cmd {
		cmd := bare(t, args...)
		cmd.Path, cmd.Dir = path, "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: gid}}
		return cmd
	}
}

// run runs a command line of the program inside ns and returns how it ended.
func run(t *testing.T, ns *lab.NS, args ...string) labtest.Result {
	t.Helper()
	return withoutWarnings(labtest.Run(t, ns, nftnat(t, args...)))
}

// runInput is run with standard input.
func runInput(t *testing.T, ns *lab.NS, input string, args ...string) labtest.Result {
	t.Helper()
	cmd := nftnat(t, args...)
	cmd.Stdin = strings.NewReader(input)
	return withoutWarnings(labtest.Run(t, ns, cmd))
}

// succeed runs a command line that must exit 0, and returns what it printed.
func succeed(t *testing.T, ns *lab.NS, args ...string) string {
	t.Helper()
	r := run(t, ns, args...)
	require.Zero(t, r.Code, "nftnat %s: %s", strings.Join(args, " "), r.Stderr)
	return r.Stdout
}
