// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// mode is how commands work: with a daemon, or with --direct.
type mode struct {
	ns      *lab.NS
	testbed *testbed // nil: with --direct
}

// inEachMode runs a test in both modes, each with a topology of its own. Forwarding is on
// already, so that no command reports turning it on.
func inEachMode(t *testing.T, parts lab.Parts, test func(t *testing.T, top *lab.Topology, m mode)) {
	t.Helper()
	t.Run("daemon", func(t *testing.T) {
		top := newTopology(t, lab.Options{Parts: parts, Forwarding: true})
		test(t, top, mode{top.Host, newTestbed(t, top.Host)})
	})
	t.Run("direct", func(t *testing.T) {
		top := newTopology(t, lab.Options{Parts: parts, Forwarding: true})
		test(t, top, mode{ns: top.Host})
	})
}

// ask runs a command line, given as words, with standard input.
func (m mode) ask(t *testing.T, input string, args ...string) labtest.Result {
	t.Helper()
	if m.testbed == nil {
		return runInput(t, m.ns, input, args...)
	}
	cmd := m.testbed.command(t, args...)
	cmd.Stdin = strings.NewReader(input)
	return withoutWarnings(labtest.Run(t, m.ns, cmd))
}

// do runs a command line that must exit 0 without a message, and returns what it printed.
func (m mode) do(t *testing.T, line string, input ...string) string {
	t.Helper()
	r := m.ask(t, strings.Join(input, ""), strings.Fields(line)...)
	require.Zero(t, r.Code, "nftnat %s: %s", line, r.Stderr)
	require.Empty(t, r.Stderr, "nftnat %s", line)
	return r.Stdout
}

// refuse runs a command line that must fail in one line, and change nothing.
func (m mode) refuse(t *testing.T, line string, code int, says string) {
	t.Helper()
	before := ruleset(t, m.ns)
	r := m.ask(t, "", strings.Fields(line)...)
	require.Equal(t, "nftnat: "+says+"\n", r.Stderr, "nftnat %s", line)
	require.Equal(t, code, r.Code, "nftnat %s", line)
	require.Empty(t, r.Stdout, "nftnat %s", line)
	require.Equal(t, before, ruleset(t, m.ns), "nftnat %s", line)
}

// crash kills the daemon, if there is one; the next command starts another. With --direct
// nothing runs between commands.
func (m mode) crash(t *testing.T) {
	t.Helper()
	if m.testbed == nil {
		return
	}
	pids := daemons(t, filepath.Dir(m.testbed.socket))
	for _, pid := range pids {
		kill(t, pid, unix.SIGKILL)
	}
}
