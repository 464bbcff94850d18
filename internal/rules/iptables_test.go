// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/internal/rules/xt"
)

// Rules of iptables-nft are printed as that program prints them.
func TestPrintIPTables(t *testing.T) {
	mine, err := filepath.Glob("testdata/iptables/*.rules")
	require.NoError(t, err)
	others, err := filepath.Glob("xt/testdata/*.rules")
	require.NoError(t, err)
	for _, file := range append(mine, others...) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			program := "iptables-nft"
			if strings.Contains(file, "ip6") {
				program = "ip6tables-nft"
			}
			ns := labtest.NewNS(t, "rules")
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			labtest.ExecInput(t, ns, strings.ReplaceAll(string(text), "-j QUEUE", "-j RETURN"), program+"-restore") // which this program has not
			f, err := os.Open(ns.Path())
			require.NoError(t, err)
			defer func() { _ = f.Close() }()
			r, err := rules.Open(int(f.Fd()))
			require.NoError(t, err)
			defer func() { _ = r.Close() }()
			rs, err := r.Read(t.Context())
			require.NoError(t, err)
			require.NotEmpty(t, rs.Tables)
			p := rules.Printer{XT: xt.Printer{}}
			for _, table := range rs.Tables {
				require.True(t, table.IPTables(), table.Name)
				want := map[string][]string{}
				for line := range strings.SplitSeq(labtest.Exec(t, ns, program, "-t", table.Name, "-S"), "\n") {
					if words := strings.SplitN(line, " ", 3); words[0] == "-A" {
						want[words[1]] = append(want[words[1]], line)
					}
				}
				for _, c := range table.Chains {
					var got []string
					list, err := r.Rules(c)
					require.NoError(t, err)
					for _, rule := range list {
						got = append(got, p.Rule(rule))
					}
					require.Equal(t, want[c.Name], got)
				}
			}
		})
	}
}

// Tables that only look like those of iptables are printed as any other.
func TestIPTables(t *testing.T) {
	base := func(name string, hook uint32) *rules.Chain {
		return &rules.Chain{Name: name, Base: &rules.Base{Hook: hook}}
	}
	forward := base("FORWARD", unix.NF_INET_FORWARD)
	for _, tt := range []struct {
		table rules.Table
		want  bool
	}{
		{rules.Table{Family: unix.NFPROTO_IPV4, Name: "filter", Chains: []*rules.Chain{forward, {Name: "x"}}}, true},
		{rules.Table{Family: unix.NFPROTO_IPV4, Name: "filter", Chains: []*rules.Chain{forward, base("input", unix.NF_INET_LOCAL_IN)}}, false},
		{rules.Table{Family: unix.NFPROTO_IPV4, Name: "filter", Chains: []*rules.Chain{base("FORWARD", unix.NF_INET_LOCAL_IN)}}, false},
		{rules.Table{Family: unix.NFPROTO_INET, Name: "filter", Chains: []*rules.Chain{forward}}, false},
		{rules.Table{Family: unix.NFPROTO_IPV4, Name: "mine", Chains: []*rules.Chain{forward}}, false},
		{rules.Table{Family: unix.NFPROTO_IPV4, Name: "filter"}, false},
	} {
		require.Equal(t, tt.want, tt.table.IPTables(), tt.table.Name)
	}
}
