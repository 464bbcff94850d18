// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// Reading 10,000 rules of others, each with a set of its own, in a chain or in as many.
func BenchmarkRead(b *testing.B) {
	const count = 10_000
	var one, many strings.Builder
	one.WriteString("table inet t { chain c {\n")
	many.WriteString("table inet t {\n")
	for i := range count {
		fmt.Fprintf(&one, "iifname \"eth0\" ip saddr 10.0.%d.%d tcp dport { %d, %d } counter accept\n", i/256, i%256, i+1, i+2)
		fmt.Fprintf(&many, "chain c%d { ip saddr 10.0.%d.%d counter accept; }\n", i, i/256, i%256)
	}
	one.WriteString("}; }")
	many.WriteString("}")
	for name, rules := range map[string]string{"chain": one.String(), "chains": many.String()} {
		b.Run(name, func(b *testing.B) {
			ns := labtest.NewNS(b, "rules")
			labtest.ExecInput(b, ns, rules, "nft", "-f", "-")
			f, err := os.Open(ns.Path())
			require.NoError(b, err)
			defer func() { _ = f.Close() }()
			r, err := Open(int(f.Fd()))
			require.NoError(b, err)
			defer func() { _ = r.Close() }()
			b.ReportAllocs()
			for b.Loop() {
				rs, err := r.Read(b.Context())
				require.NoError(b, err)
				_, err = r.Rules(rs.Tables[0].Chains[0])
				require.NoError(b, err)
			}
		})
	}
}
