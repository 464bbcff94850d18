// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// A table of the same name that no engine made, or a later version made, is refused by
// every command and not changed.
func TestTableNotOurs(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	const rest = "map tcp4 { type inet_service : ipv4_addr . inet_service; elements = { 8080 : 10.1.1.1 . 80 }; }; chain publish { accept; }; "
	for _, c := range labtest.Some(t, "tables that are not ours", 3, []struct {
		name, table string
		err         error
		says        string
	}{
		{"no comment", rest, nat.ErrForeign, `open table nftnat: the table is not one of nftnat's: its comment is ""`},
		{"another comment", `comment "my own"; ` + rest, nat.ErrForeign,
			`open table nftnat: the table is not one of nftnat's: its comment is "my own"`},
		{"almost ours", `comment "nftnat schema 1x"; ` + rest, nat.ErrForeign,
			`open table nftnat: the table is not one of nftnat's: its comment is "nftnat schema 1x"`},
		{"schema 0", `comment "nftnat schema 0"; ` + rest, nat.ErrForeign,
			`open table nftnat: the table is not one of nftnat's: its comment is "nftnat schema 0"`},
		{"newer", `comment "nftnat schema 5"; ` + rest, nat.ErrNewer,
			"open table nftnat: the table was made by a newer version of nftnat: it has schema 5, this version knows 4"},
		{"empty", "", nat.ErrForeign, `open table nftnat: the table is not one of nftnat's: its comment is ""`},
	}) {
		t.Run(c.name, func(t *testing.T) {
			load(t, top.Host, "flush ruleset; table inet nftnat { "+c.table+"}")
			before := takeSnapshot(t, top.Host)
			for _, readOnly := range []bool{false, true} {
				_, err := engine.Open(t.Context(), engine.Options{NetNS: top.Host.Path(), ReadOnly: readOnly})
				require.ErrorIs(t, err, c.err)
			}
			for _, args := range [][]string{
				{"add", "tcp", "8080", "172.30.0.2:80"}, {"rm", "tcp", "8080"}, {"ls"}, {"export"}, {"purge"},
				{"apply", "-f", "testdata/empty.yaml"}, {"apply", "-f", "testdata/empty.yaml", "--dry-run"},
			} {
				r := run(t, top.Host, args...)
				require.Equal(t, "nftnat: "+c.says+"\n", r.Stderr)
				require.Equal(t, 1, r.Code)
				require.Empty(t, r.Stdout)
			}
			before.unchanged(t, top.Host)
			require.Equal(t, "8080->172.30.0.2:80\n", succeed(t, top.Host, "--table", "mine", "add", "tcp", "8080", "172.30.0.2:80"))
			succeed(t, top.Host, "--table", "mine", "purge")
		})
	}
}

// Rules that others have changed are repaired and reported when an engine opens; what is
// published stays. An engine that only reads changes nothing.
func TestRepairAtOpen(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	first := open(t, top.Host, engine.Options{})
	every := everyKind(t)
	_, err := first.Publish(t.Context(), nat.PublishOptions{}, every...)
	require.NoError(t, err)
	require.NoError(t, first.Close())
	intact := listed(t, top.Host)
	elements := sortedElements(t, top.Host)

	for name, script := range map[string]string{
		"chain flushed":          "flush chain inet nftnat publish",
		"all rules gone":         "flush table inet nftnat",
		"rule added":             "add rule inet nftnat raw-prerouting tcp dport 22 accept",
		"rule put before":        "insert rule inet nftnat filter-forward accept",
		"rules in another order": "flush chain inet nftnat nat-output; add rule inet nftnat nat-output fib daddr type local jump publish",
		"chain added":            "add chain inet nftnat mine { type filter hook input priority 0; }",
		"set added":              "add set inet nftnat mine { type ipv4_addr; }",
		"chain deleted":          "delete chain inet nftnat raw-prerouting",
		"policy":                 "chain inet nftnat filter-forward { policy drop; }",
		"chain at another priority": "delete chain inet nftnat raw-prerouting; table inet nftnat { chain raw-prerouting { " +
			`type filter hook prerouting priority 300; ip daddr 127.0.0.0/8 iifname != "lo" drop; ip6 daddr ::1 iifname != "lo" drop; }; }`,
		"set of another type": "flush chain inet nftnat filter-forward; flush chain inet nftnat nat-postrouting; " +
			"delete set inet nftnat networks4; add set inet nftnat networks4 { type ipv4_addr; }",
	} {
		t.Run(name, func(t *testing.T) {
			load(t, top.Host, script)
			tampered := ruleset(t, top.Host)
			require.NotEqual(t, intact, listed(t, top.Host))
			var log logBuffer
			reader := open(t, top.Host, engine.Options{ReadOnly: true, Log: log.logger()})
			requireMappings(t, every, collect(reader))
			require.Equal(t, withoutClocks(tampered), withoutClocks(ruleset(t, top.Host)))
			require.NotContains(t, log.String(), "table was repaired")

			e := open(t, top.Host, engine.Options{Log: log.logger()})
			require.Equal(t, intact, listed(t, top.Host))
			require.Equal(t, elements, sortedElements(t, top.Host))
			requireMappings(t, every, collect(e))
			require.Contains(t, log.String(), "table was repaired")
			labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
			require.NoError(t, e.Close())

			log = logBuffer{}
			require.NoError(t, open(t, top.Host, engine.Options{Log: log.logger()}).Close())
			require.Empty(t, log.String())
		})
	}
}
