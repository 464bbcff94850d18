// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// noFlags is the line of flags of a table whose flags nft(8) does not know.
var noFlags = regexp.MustCompile(`(?m)^\tflags $`)

// withoutOurTable is the sed command of docs/beside.md.
const withoutOurTable = `/^table inet nftnat {/,/^}/d`

// What nft(8) lists of a host loads on another one, such as the same after a reboot: always if
// the daemon has ended cleanly, or if the table was not owned. The other states are as
// docs/beside.md says, and without nftnat's table each of them loads.
func TestSavedRuleset(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	load(t, top.Host, "table inet mine { chain input { type filter hook input priority filter; tcp dport 22 accept; }; }")
	boot := labtest.NewNS(t, "boot")
	// tried loads a ruleset on a host that has booted, and returns its tables.
	tried := func(ruleset string) (labtest.Result, string) {
		nft(t, boot, "flush", "ruleset")
		cmd := command(t, "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(ruleset)
		r := labtest.Run(t, boot, cmd)
		return r, tablesOf(t, boot)
	}
	const mine, both = "table inet mine\n", "table inet mine\ntable inet nftnat\n"
	s, p := ownedTestbed(t, top)
	s.fill(t)
	end := func() {
		require.NoError(t, p.Signal(unix.SIGTERM))
		require.Zero(t, p.Wait())
	}
	for _, state := range []string{"served", "killed", "ended", "open", "open, ended"} {
		switch state {
		case "served":
		case "killed":
			p.Kill()
		case "ended":
			p = s.serve(t)
			end()
		case "open":
			p = s.serve(t, "--no-owner")
		default:
			end()
		}
		saved := labtest.Exec(t, top.Host, "nft", "list", "ruleset")
		r, tables := tried(saved)
		persists := strings.Contains(saved, "persist") // this nft knows it
		switch {
		case state == "killed" && !persists:
			require.Regexp(t, noFlags, saved)
			require.NotZero(t, r.Code)
			require.Empty(t, tables)
		case state == "served" && !persists:
			require.Zero(t, r.Code, r.Stderr)
			require.Equal(t, mine, tables, "the owner was nft(8), which has ended")
		default:
			require.Zero(t, r.Code, "%s: %s", state, r.Stderr)
			require.Equal(t, both, tables, state)
		}
		if state == "ended" {
			require.Equal(t, withoutClocks(labtest.SpellNFT(saved)), withoutClocks(nft(t, boot, "list", "ruleset")))
			require.NotContains(t, saved, "owner")
		}
		r, tables = tried(labtest.ExecInput(t, top.Host, saved, "sed", withoutOurTable))
		require.Zero(t, r.Code, r.Stderr)
		require.Equal(t, mine, tables, state)

		// On the host itself.
		script := "flush ruleset\n" + saved
		cmd := command(t, "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		r = labtest.Run(t, top.Host, cmd)
		require.Equal(t, state == "served" || state == "killed" && !persists, r.Code != 0, "%s: %s", state, r.Stderr)
		load(t, top.Host, labtest.ExecInput(t, top.Host, script, "sed", withoutOurTable))
		switch state {
		case "served":
			labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
			require.Zero(t, s.status(t).Table.Repaired)
		case "open":
			await(t, "the daemon to repair", func() bool { return tablesOf(t, top.Host) == both })
		default: // the flush took it
			require.Equal(t, mine, tablesOf(t, top.Host))
			load(t, top.Host, "flush ruleset\n"+strings.ReplaceAll(strings.ReplaceAll(saved, "\tflags \n", ""), "\tflags persist\n", ""))
			labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
		}
	}
}

// tablesOf are the tables of a host, sorted.
func tablesOf(t *testing.T, ns *lab.NS) string {
	t.Helper()
	lines := slices.Sorted(strings.Lines(nft(t, ns, "list", "tables")))
	return strings.Join(lines, "")
}
