// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// BenchmarkLegacyTables reads a table of 10,000 rules.
func BenchmarkLegacyTables(b *testing.B) {
	ns := labtest.NewNS(b, "many")
	var text strings.Builder
	text.WriteString("*filter\n")
	for i := range 10000 {
		fmt.Fprintf(&text, "-A FORWARD -s 10.%d.%d.1/32 -p tcp -m tcp --dport %d -m conntrack --ctstate NEW -j DROP\n", i/256, i%256, i+1)
	}
	text.WriteString("COMMIT\n")
	labtest.ExecInput(b, ns, text.String(), "iptables-legacy-restore")
	f, err := os.Open(ns.Path())
	require.NoError(b, err)
	defer func() { require.NoError(b, f.Close()) }()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := LegacyTables(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
	}
}
