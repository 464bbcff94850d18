// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rulestest

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/internal/rules/xt"
)

var update = flag.Bool("update", false, "make the recordings anew, by the scripts")

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// With -update the recordings are made.
func TestRecord(t *testing.T) {
	scripts, err := filepath.Glob("testdata/make/*.sh")
	require.NoError(t, err)
	require.NotEmpty(t, scripts)
	for _, script := range scripts {
		name := strings.TrimSuffix(filepath.Base(script), ".sh")
		if !*update {
			require.Contains(t, Names(t), name)
			continue
		}
		ns := labtest.NewNS(t, "record")
		labtest.Exec(t, ns, "unshare", "--mount", "bash", "-e", script)
		f, err := os.Open(ns.Path())
		require.NoError(t, err)
		kernel, err := rules.OpenSource(int(f.Fd()))
		require.NoError(t, err)
		r, err := Record(t.Context(), kernel)
		require.NoError(t, err)
		require.NoError(t, kernel.Close())
		require.NoError(t, f.Close())
		b, err := r.Save()
		require.NoError(t, err)
		require.Less(t, len(b), 100<<10)
		require.NoError(t, os.WriteFile("testdata/"+name+suffix, b, 0o644))
		again, err := Load(b)
		require.NoError(t, err)
		rs, err := rules.NewReader(again).Read(t.Context())
		require.NoError(t, err)
		require.NoError(t, os.WriteFile("testdata/"+name+".txt", []byte(strings.Join(listed(t, ns, rs), "\n")+"\n"), 0o644))
	}
}

// listed returns the rules as the programs list them: nft(8), or iptables for tables of its own. Each has
// its chain before it, and they are sorted by chains.
func listed(t *testing.T, ns *lab.NS, rs *rules.Ruleset) (lines []string) {
	t.Helper()
	handle := regexp.MustCompile(` # handle \d+$`)
	for _, table := range rs.Tables {
		if table.IPTables() {
			program := map[rules.Family]string{unix.NFPROTO_IPV4: "iptables-nft", unix.NFPROTO_IPV6: "ip6tables-nft"}[table.Family]
			for line := range strings.SplitSeq(labtest.Exec(t, ns, program, "-t", table.Name, "-S"), "\n") {
				if words := strings.Fields(line); len(words) > 1 && words[0] == "-A" {
					lines = append(lines, table.String()+" "+words[1]+": "+line)
				}
			}
			continue
		}
		chain := ""
		for line := range strings.SplitSeq(labtest.Exec(t, ns, "nft", "-a", "list", "table", table.Family.String(), table.Name), "\n") {
			rule := handle.ReplaceAllString(line, "")
			name, isChain := strings.CutPrefix(strings.TrimSpace(rule), "chain ")
			switch {
			case isChain:
				chain = strings.TrimSuffix(name, " {")
			case rule != line && !strings.HasSuffix(rule, "{"):
				lines = append(lines, table.String()+" "+chain+": "+strings.TrimSpace(rule))
			}
		}
	}
	return sorted(lines)
}

func sorted(lines []string) []string {
	slices.SortStableFunc(lines, func(a, b string) int {
		a, _, _ = strings.Cut(a, ":")
		b, _, _ = strings.Cut(b, ":")
		return strings.Compare(a, b)
	})
	return lines
}

// All rules are printed as the programs have listed them.
func TestOpen(t *testing.T) {
	p := rules.Printer{XT: xt.Printer{}, Counters: true, Link: func(n uint32) string { return map[uint32]string{1: "lo"}[n] }}
	for _, name := range Names(t) {
		r, rs := Open(t, name)
		var got []string
		for _, table := range rs.Tables {
			for _, c := range table.Chains {
				list, err := r.Rules(c)
				require.NoError(t, err)
				for _, rule := range list {
					got = append(got, table.String()+" "+c.Name+": "+p.Rule(rule))
				}
			}
		}
		want, err := os.ReadFile("testdata/" + name + ".txt")
		require.NoError(t, err)
		require.Equal(t, string(want), strings.Join(sorted(got), "\n")+"\n", name)
		changed, err := r.Changed()
		require.NoError(t, err)
		require.False(t, changed)
	}
}

// A recording answers as the kernel does.
func TestAsKernel(t *testing.T) {
	ns := labtest.NewNS(t, "record")
	labtest.ExecInput(t, ns, `table ip t {
		limit l { rate 1/hour; }
		set hash { type inet_service; elements = { 80, 443 }; }
		set range { type inet_service; flags interval; elements = { 80-90, 91, 100-110, 60000-65535 }; }
		set pairs { type ipv4_addr . inet_service; flags interval; elements = { 192.0.2.0/24 . 80-90, 198.51.100.1 . 1 }; }
		map verdicts { type inet_service : verdict; flags interval; elements = { 80-90 : accept, * : drop }; }
	}`, "nft", "-f", "-")
	f, err := os.Open(ns.Path())
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	kernel, err := rules.OpenSource(int(f.Fd()))
	require.NoError(t, err)
	made, err := Record(t.Context(), kernel)
	require.NoError(t, err)
	b, err := made.Save()
	require.NoError(t, err)
	recording, err := Load(b)
	require.NoError(t, err)
	var readers [2]*rules.Reader
	var tables [2]*rules.Table
	for i, s := range []rules.Source{kernel, recording} {
		readers[i] = rules.NewReader(s)
		defer func() { _ = readers[i].Close() }()
		rs, err := readers[i].Read(t.Context())
		require.NoError(t, err)
		tables[i] = rs.Tables[0]
	}
	same := func(set string, key ...byte) {
		var got [2]rules.Element
		var found [2]bool
		for i, r := range readers {
			got[i], found[i], err = r.Get(tables[i].Sets[set], key)
			require.NoError(t, err)
		}
		require.Equal(t, found[0], found[1], "%s %v", set, key)
		require.Equal(t, got[0], got[1], "%s %v", set, key)
	}
	for _, port := range []uint16{0, 1, 79, 80, 85, 90, 91, 92, 100, 111, 443, 59999, 60000, 65535} {
		for _, set := range []string{"hash", "range", "verdicts"} {
			same(set, byte(port>>8), byte(port))
		}
		same("pairs", 192, 0, 2, 7, byte(port>>8), byte(port), 0, 0)
		same("pairs", 198, 51, 100, 1, byte(port>>8), byte(port), 0, 0)
	}
	for i, r := range readers {
		o, err := r.Object(tables[i], 4, "l")
		require.NoError(t, err)
		require.Equal(t, rules.Limit{Rate: 1, Unit: 3600, Burst: 5}, o.Value)
		_, err = r.Object(tables[i], 4, "none")
		require.ErrorIs(t, err, unix.ENOENT)
	}
}
