// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

var update = flag.Bool("update", false, "write testdata/ruleset.nft anew, if its witnesses agree, and docs/reachability.md")

// The ruleset equals testdata/ruleset.nft: as the engine prints it, and as nft(8) lists the
// engine's table. And nft(8) can load the file.
func TestGoldenRuleset(t *testing.T) {
	ns := labtest.NewNS(t, "host")
	plan, err := engine.Plan("")
	require.NoError(t, err)
	path := filepath.Join("testdata", "ruleset.nft")
	kernel := kernelRuleset(t, ns)
	if *update {
		require.Equal(t, plan, kernel, "the witnesses disagree: nothing was written")
		require.NoError(t, os.WriteFile(path, []byte(plan), 0o644))
	}
	golden, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(golden), plan)
	require.Equal(t, withoutImplied(string(golden)), withoutImplied(kernel))

	nft(t, ns, "-c", "-f", path)
	nft(t, ns, "flush", "ruleset")
	nft(t, ns, "-f", path)
	require.Equal(t, withoutImplied(string(golden)), withoutImplied(listed(t, ns)))
}

// implied are conditions of a redirection by a map that its key implies: nft(8) 1.0 lists them, and
// 1.1 does not.
var implied = regexp.MustCompile(`(?m)^(\t+)(?:meta nfproto \S+ )?meta l4proto \S+ (redirect to :.* map @)`)

func withoutImplied(rules string) string { return implied.ReplaceAllString(rules, "$1$2") }

// A plan that the installed nft(8) has loaded equals the engine's table: no drift is
// reported, and nothing is repaired.
func TestPlanLoadedByNFT(t *testing.T) {
	ns := labtest.NewNS(t, "host")
	load(t, ns, succeed(t, ns, "plan"))
	before := ruleset(t, ns)
	r := run(t, ns, "rm", "tcp", "1")
	require.Equal(t, 4, r.Code, r.Stderr)
	require.NotContains(t, r.Stderr, "table")
	require.Equal(t, before, ruleset(t, ns))
}

// kernelRuleset makes the table and lists it.
func kernelRuleset(t *testing.T, ns *lab.NS) string {
	t.Helper()
	e := open(t, ns, engine.Options{NoSysctl: true})
	publish(t, e, "1->192.0.2.2:1")
	unpublish(t, e, "1->192.0.2.2:1")
	return listed(t, ns)
}

// listed returns nftnat's table without elements and counters.
func listed(t *testing.T, ns *lab.NS) string {
	t.Helper()
	return nft(t, ns, "-s", "-t", "list", "table", "inet", "nftnat")
}
