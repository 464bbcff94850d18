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
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// Other tables, of any name and about any port, are the same after every command, down to
// the handles.
func TestForeignTables(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	load(t, top.Host, foreignRuleset(t))
	before := ruleset(t, top.Host)
	foreign := foreignTables(t, top.Host)
	require.Len(t, strings.Split(foreign, "\n# table "), 9)

	for _, args := range []string{
		"ls", "plan", "add tcp 8080 172.30.0.2:80 --name web", "add udp 53 172.30.0.2", "add tcp 0 172.30.0.2:80-89",
		"add tcp 192.0.2.1:30080 172.30.0.2:80 --ttl 1h", "add tcp [::]:7000 [fd00:30::2]:70 --no-proxy",
		"add tcp 8080 172.30.0.2:81", "add tcp 8080 172.30.0.2:81 --replace", "add tcp 8081 127.0.0.1:80", "ls", "export",
		"rm udp 53", "rm udp 53", "rm tcp 49155-49157 --kill", "apply -f -", "apply --dry-run -f -", "apply -f -",
		"version", "purge", "purge", "add tcp 8080 172.30.0.2:80", "purge",
	} {
		runInput(t, top.Host, "mappings: [8080->172.30.0.2:82, 53->172.30.0.2:53/udp, 7000-7100->172.30.0.2:70-170]",
			strings.Fields(args)...)
		require.Equal(t, foreign, foreignTables(t, top.Host), "after nftnat %s", args)
	}
	require.Equal(t, before, ruleset(t, top.Host), "purge leaves nothing")
}

// foreignTables lists every table but inet nftnat.
func foreignTables(t *testing.T, ns *lab.NS) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(nft(t, ns, "list", "tables")) {
		table := strings.TrimPrefix(strings.TrimSpace(line), "table ")
		if table == "inet nftnat" {
			continue
		}
		fmt.Fprintf(&b, "\n# table %s\n%s", table, nft(t, ns, slices.Concat([]string{"-a", "list", "table"}, strings.Fields(table))...))
	}
	return b.String()
}

// everyKind returns a mapping of every kind.
func everyKind(t *testing.T) []nat.Mapping {
	t.Helper()
	ms := mappings(t,
		"8080->172.30.0.2:80", "8000-8009->172.30.0.2:9000-9009", "192.0.2.1:53->172.30.0.2:53/udp",
		"0.0.0.0:90->172.30.0.2:90", "[::]:90->[fd00:30::2]:90", "[::]:91->[fd00:30::2]:91/udp",
		"[2001:db8:1::1]:8090->[fd00:30::2]:80", "127.0.0.1:9090->172.30.0.2:80", "[::1]:9090->[fd00:30::2]:80/udp",
		"192.0.2.9:443->198.51.100.77:443", "8091->[fd00:30::2]:80",
	)
	ms[0].Name, ms[1].Name, ms[2].Name = "web", "Ein Name: mit `allem' & ünïcödé 🙂 \\n {}#;$x", strings.Repeat("n", 63)
	ms[3].NoProxy, ms[4].NoProxy = true, true
	ms[3].Name = "both"
	expires := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	ms[4].Expires, ms[5].Expires, ms[6].Expires = expires, expires.Add(time.Hour), expires.Add(24*time.Hour)
	return ms
}

// An administrator saves the ruleset, flushes it, and loads it again: all that was published
// is there, with names and remaining times.
func TestSaveAndLoad(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	want := everyKind(t)
	e := open(t, top.Host, engine.Options{})
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, want...)
	require.NoError(t, err)
	require.NoError(t, e.Close())

	saved := nft(t, top.Host, "list", "ruleset")
	path := filepath.Join(t.TempDir(), "saved.nft")
	require.NoError(t, os.WriteFile(path, []byte(saved), 0o600))
	nft(t, top.Host, "flush", "ruleset")
	require.Error(t, labtest.NoAnswer(t, top.Client, "tcp", "192.0.2.1:8080"))
	nft(t, top.Host, "-f", path)
	require.Equal(t, withoutClocks(saved), withoutClocks(nft(t, top.Host, "list", "ruleset")))
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")

	var log logBuffer
	again := open(t, top.Host, engine.Options{Log: log.logger()})
	require.Empty(t, log.String())
	requireMappings(t, want, collect(again))
	require.Equal(t, withoutClocks(saved), withoutClocks(nft(t, top.Host, "list", "ruleset")), "Open changes nothing")
	publish(t, again, "9999->172.30.0.2:80")
	unpublish(t, again, "9999->172.30.0.2:80", "8080->172.30.0.2:80")
	require.Error(t, labtest.NoAnswer(t, top.Client, "tcp", "192.0.2.1:8080"))
}

// requireMappings compares mappings, and their ends to the minute, because the kernel reports
// only the remaining time.
func requireMappings(t *testing.T, want, got []nat.Mapping) {
	t.Helper()
	want, got = nat.Collapse(want), nat.Collapse(got)
	require.Len(t, got, len(want))
	for i := range want {
		require.WithinDuration(t, want[i].Expires, got[i].Expires, time.Minute, "%s", want[i])
		got[i].Expires = want[i].Expires
	}
	require.Equal(t, want, got)
}

// After others have flushed the ruleset, the next change of any kind restores all that was
// published.
func TestRestored(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	changes := map[string]func(e *engine.Engine) error{
		"publish": func(e *engine.Engine) error {
			_, err := e.Publish(t.Context(), nat.PublishOptions{}, mapping(t, "5000->172.30.0.3:80"))
			return err
		},
		"unpublish": func(e *engine.Engine) error {
			_, err := e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{mapping(t, "8000-8001->172.30.0.2:9000-9001")}})
			return err
		},
		"replace": func(e *engine.Engine) error {
			_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, mapping(t, "8000-8002->172.30.0.3:9000-9002"))
			return err
		},
		"apply": func(e *engine.Engine) error {
			_, err := e.Apply(t.Context(), append(everyKind(t)[:3], mapping(t, "5000->172.30.0.3:80"))...)
			return err
		},
	}
	for _, change := range []string{"publish", "unpublish", "replace", "apply"} {
		var calm []string // what is published after the change if nothing happens
		for _, disaster := range []string{"list tables", "flush ruleset", "delete table inet nftnat"} {
			t.Run(disaster+" before "+change, func(t *testing.T) {
				var log logBuffer
				e := open(t, top.Host, engine.Options{Log: log.logger()})
				_, err := e.Publish(t.Context(), nat.PublishOptions{}, everyKind(t)...)
				require.NoError(t, err)
				terse := nft(t, top.Host, "-s", "-t", "list", "table", "inet", "nftnat")
				nft(t, top.Host, strings.Fields(disaster)...)

				require.NoError(t, changes[change](e))
				if calm == nil {
					calm = published(e)
				} else {
					require.Contains(t, log.String(), "table was repaired")
				}
				require.Equal(t, calm, published(e))
				require.Equal(t, terse, nft(t, top.Host, "-s", "-t", "list", "table", "inet", "nftnat"))
				segments := []string{"172.30.0.0/24", "fd00:30::/64"}
				if change == "apply" {
					segments = segments[:1]
				}
				want := elementsOf(must(e.Mappings(t.Context())), segments...)
				for _, m := range must(e.Mappings(t.Context())) {
					if note, ok := noteOn(m); ok && !m.Expires.IsZero() {
						want = append(want, note)
					}
				}
				slices.Sort(want)
				require.Equal(t, want, sortedElements(t, top.Host))
				labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
				require.NoError(t, e.Purge(t.Context()))
			})
		}
	}
}

// The rules are the same whatever is published: mappings are elements.
func TestConstantRules(t *testing.T) {
	labtest.LongOnly(t, "60,000 mappings")
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "last", ":60001")
	e := open(t, top.Host, engine.Options{})
	terse := func() string { return nft(t, top.Host, "-a", "-t", "list", "table", "inet", "nftnat") }
	publish(t, e, "53->172.30.0.2:53/udp")
	unpublish(t, e, "53->172.30.0.2:53/udp")
	require.Empty(t, sortedElements(t, top.Host))
	empty := terse()
	sets := strings.Count(empty, "\tmap ") + strings.Count(empty, "\tset ")
	require.Equal(t, 152+26, strings.Count(empty, " # handle ")-sets-1, "rules and chains, but for the sets and the table")

	// Ports that shift are an element each.
	publish(t, e, "192.0.2.1:1-1000->172.30.0.2:2-1001", "[2001:db8:1::1]:1-1000->[fd00:30::2]:2-1001")
	require.Len(t, sortedElements(t, top.Host), 2002)
	require.Equal(t, empty, terse())

	// One call, one transaction.
	before := generation(t, top.Host)
	changes, err := e.Apply(t.Context(), mapping(t, "1-60000->172.30.0.2:2-60001"))
	require.NoError(t, err)
	require.Len(t, changes, 3)
	require.Equal(t, before+1, generation(t, top.Host))
	require.Equal(t, empty, terse())
	require.Equal(t, 60000, strings.Count(nft(t, top.Host, "list", "map", "inet", "nftnat", "tcp4"), " : 172.30.0.2 . "))
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:60000", "last")
	require.NoError(t, e.Purge(t.Context()))
}
