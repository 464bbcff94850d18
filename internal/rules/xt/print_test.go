// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/rules"
)

// readLegacy reads the legacy tables of a namespace.
func readLegacy(t *testing.T, ns *lab.NS) []*rules.Table {
	t.Helper()
	f, err := os.Open(ns.Path())
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	tables, err := LegacyTables(int(f.Fd()))
	require.NoError(t, err)
	return tables
}

// TestPrint: every match and target of the lists is printed as iptables-legacy prints it, and every table is as
// that program lists it.
func TestPrint(t *testing.T) {
	for _, test := range []struct {
		program, file string
		family        rules.Family
	}{
		{"iptables-legacy", "testdata/ip.rules", unix.NFPROTO_IPV4},
		{"ip6tables-legacy", "testdata/ip6.rules", unix.NFPROTO_IPV6},
	} {
		ns := labtest.NewNS(t, "print")
		text, err := os.ReadFile(test.file)
		require.NoError(t, err)
		labtest.ExecInput(t, ns, string(text), test.program+"-restore")
		tables := readLegacy(t, ns)
		require.Len(t, tables, strings.Count(string(text), "COMMIT"))
		for _, table := range tables {
			require.Equal(t, test.family, table.Family)
			want := labtest.Exec(t, ns, test.program, "-t", table.Name, "-S")
			have := strings.Join(Printer{}.Table(table), "\n") + "\n"
			compareLines(t, want, have)
		}
	}
}

// compareLines reports lines that differ.
func compareLines(t *testing.T, want, have string) {
	t.Helper()
	if want == have {
		return
	}
	w, h := strings.Split(want, "\n"), strings.Split(have, "\n")
	for i := range max(len(w), len(h)) {
		x, y := "", ""
		if i < len(w) {
			x = w[i]
		}
		if i < len(h) {
			y = h[i]
		}
		if x != y {
			t.Errorf("want %s\nhave %s", x, y)
		}
	}
}
