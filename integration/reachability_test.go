// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// Every cell of docs/reachability.md with real packets: which ports a machine reaches, and
// with which address the backend sees it. Neither bridge-nf nor route_localnet makes a
// difference, nor what serves localhost, nor whether a port is one of a range.
func TestReachability(t *testing.T) {
	for _, loopback := range []engine.Loopback{engine.LoopbackBPF, engine.LoopbackProxy} {
		t.Run(loopback.String(), func(t *testing.T) { everyCell(t, loopback) })
	}
}

func everyCell(t *testing.T, loopback engine.Loopback) {
	t.Helper()
	r := newReach(t, loopback)
	for _, bridgeNF := range []bool{false, true} {
		for _, careless := range []string{"0", "1"} {
			if loopback == engine.LoopbackProxy && (bridgeNF || careless == "0") {
				continue // it is for localhost, where only the latter could matter
			}
			t.Run(fmt.Sprintf("bridge-nf %t, route_localnet %s", bridgeNF, careless), func(t *testing.T) {
				require.NoError(t, r.top.SetBridgeNF(bridgeNF))
				require.NoError(t, r.top.Host.Sysctl("net.ipv4.conf.all.route_localnet", careless))
				for _, bits := range []int{32, 128} {
					require.Empty(t, r.deviations(t, cells(bits)))
				}
				require.Empty(t, r.trespasses(t))
				r.ranged = true
				for _, bits := range []int{32, 128} {
					require.Empty(t, r.deviations(t, hostCells(bits)))
				}
				r.ranged = false
			})
		}
	}
}

// The page shows the outcomes that the test above checks.
func TestReachabilityPage(t *testing.T) {
	path := filepath.Join("..", "docs", "reachability.md")
	page := reachabilityPage()
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(page), 0o644))
	}
	have, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(have), page, "go test -run TestReachabilityPage -update ./integration writes it anew")
}

// Without any one of its rules the ruleset fails in at least one cell.
func TestReachabilityMutations(t *testing.T) {
	r := newReach(t, engine.LoopbackBPF)
	plan := nft(t, r.top.Host, "-s", "-t", "list", "table", "inet", "nftnat")
	rules := rulesOf(plan)
	// Here all endpoints of a network are on one link, so that two rules masquerade what is
	// between them: TestMutations misses each.
	// No mapping has options, is shared, or is a range, and nobody calls loopback from another address.
	others := []string{"past-holders", "range", "@limited", "_from drop", "@masquerade_to", "jump to-backends", "daddr 127.0.0.0/8 return", "daddr ::1 return"}
	noticeable := slices.DeleteFunc(slices.Clone(rules), func(rule string) bool {
		if notProbed()[rule] == byUplinks || slices.ContainsFunc(others, func(part string) bool { return strings.Contains(rule, part) }) {
			return true // TestUplinkMutations and TestMutations miss these
		}
		return strings.HasPrefix(rule, "nat-postrouting: ct status dnat") && (strings.Contains(rule, "@inside") || strings.Contains(rule, "@segments"))
	})
	r.mutated = true
	for _, rule := range labtest.Some(t, "rules taken away", 3, noticeable) {
		i := slices.Index(rules, rule)
		chain, text, _ := strings.Cut(rule, ": ")
		t.Run(rule, func(t *testing.T) {
			load(t, r.top.Host, chainScript(chain, rules, i))
			defer load(t, r.top.Host, chainScript(chain, rules, -1))
			noticed := r.noticed(t)
			require.NotEmpty(t, noticed, "nobody misses %s in %s", text, chain)
			t.Log(noticed)
		})
	}
	r.mutated = false
	r.forget(t)
	for _, bits := range []int{32, 128} {
		require.Empty(t, r.deviations(t, cells(bits)), "the rules are back")
	}
	require.Empty(t, r.trespasses(t))
}

// noticed returns the first deviation.
func (r *reach) noticed(t *testing.T) string {
	t.Helper()
	r.forget(t)
	for _, bridgeNF := range []bool{false, true} {
		require.NoError(t, r.top.SetBridgeNF(bridgeNF))
		for _, bits := range []int{32, 128} {
			if lines := r.deviations(t, cells(bits)); len(lines) != 0 {
				return lines[0]
			}
		}
		if lines := r.trespasses(t); len(lines) != 0 {
			return lines[0]
		}
	}
	return ""
}

// chainScript replaces the rules of a chain in one transaction, without one of them.
func chainScript(chain string, rules []string, without int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "flush chain inet nftnat %s\n", chain)
	for i, rule := range rules {
		if of, text, _ := strings.Cut(rule, ": "); of == chain && i != without {
			fmt.Fprintf(&b, "add rule inet nftnat %s %s\n", chain, text)
		}
	}
	return b.String()
}
