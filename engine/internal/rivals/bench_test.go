// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rivals

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// What each change of mappings costs where nobody else has a table, and where iptables-nft has.
func BenchmarkRead(b *testing.B) {
	for name, rules := range map[string]string{
		"alone":  "table inet nftnat { chain pre { type nat hook prerouting priority dstnat; }; }",
		"beside": "table inet nftnat { chain pre { type nat hook prerouting priority dstnat; }; }; table ip nat { chain pre { type nat hook prerouting priority dstnat; tcp dport 8080 redirect; }; }",
	} {
		b.Run(name, func(b *testing.B) {
			ns := labtest.NewNS(b, "rivals")
			labtest.ExecInput(b, ns, rules, "nft", "-f", "-")
			f, err := os.Open(ns.Path())
			require.NoError(b, err)
			defer func() { _ = f.Close() }()
			r := NewReader(int(f.Fd()), "nftnat")
			defer func() { _ = r.Close() }()
			for b.Loop() {
				_, err := r.ReadAfter(0)
				require.NoError(b, err)
			}
		})
	}
}
