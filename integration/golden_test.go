// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/lab"
	"github.com/nftnat/nftnat/lab/labtest"
)

var update = flag.Bool("update", false, "write testdata/ruleset.nft anew, if its witnesses agree, and docs/reachability.md")

// The ruleset is what testdata/ruleset.nft says, by three witnesses: what the engine
// says it would make, what nft(8) finds in the kernel that it has made, and that
// nft(8) can read the file.
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
	require.Equal(t, string(golden), kernel)

	nft(t, ns, "-c", "-f", path)
	nft(t, ns, "flush", "ruleset")
	nft(t, ns, "-f", path)
	require.Equal(t, string(golden), listed(t, ns))
}

// kernelRuleset makes the table and lists it.
func kernelRuleset(t *testing.T, ns *lab.NS) string {
	t.Helper()
	e := open(t, ns, engine.Options{NoSysctl: true})
	publish(t, e, "1->192.0.2.2:1")
	unpublish(t, e, "1->192.0.2.2:1")
	return listed(t, ns)
}

// listed is nftnat's table without elements and counters.
func listed(t *testing.T, ns *lab.NS) string {
	t.Helper()
	return normal(nft(t, ns, "-s", "-t", "list", "table", "inet", "nftnat"))
}

// normal undoes what later versions of nft(8) spell differently, all of it here:
//
//   - "priority dstnat" at the output hook too, from 1.0.8 on;
//   - "size 65535 # count 3", from 1.1.2 on.
func normal(listing string) string {
	listing = strings.ReplaceAll(listing, "hook output priority dstnat;", "hook output priority -100;")
	return regexp.MustCompile(`[ \t]*# count \d+`).ReplaceAllString(listing, "")
}
