// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// BenchmarkRepairTransaction is the one transaction of a repair of a table that somebody
// has deleted: the limit of BenchmarkRepair in package integration.
func BenchmarkRepairTransaction(b *testing.B) {
	for _, count := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("mappings=%d", count), func(b *testing.B) {
			ns := labtest.NewNS(b, "host")
			e, err := Open(b.Context(), Options{NetNS: ns.Path(), NoSysctl: true, NoProxies: true, NoOwner: true})
			require.NoError(b, err)
			b.Cleanup(func() { require.NoError(b, e.Close()) })
			m, err := nat.ParseMappingText(fmt.Sprintf("1-%d->10.9.0.2:1-%d", count, count))
			require.NoError(b, err)
			_, err = e.Publish(b.Context(), nat.PublishOptions{}, m)
			require.NoError(b, err)
			var foreign *nft.Conn
			require.NoError(b, ns.Do(func() (err error) {
				foreign, err = nft.Dial(nil)
				return err
			}))
			b.Cleanup(func() { require.NoError(b, foreign.Close()) })
			es := elementsOf(e.core.now(), e.core.mappings.Entries, e.core.mappings.LenEntries(), nil)
			var took []time.Duration
			for b.Loop() {
				peace := time.Now().Add(100 * time.Millisecond)
				require.NoError(b, foreign.DeleteTable(DefaultTable))
				begin := time.Now()
				require.NoError(b, e.core.table.Kernel().Restore(e.core.table.Rules, es, 0))
				took = append(took, time.Since(begin))
				time.Sleep(time.Until(peace))
			}
			labtest.ReportPercentiles(b, took)
		})
	}
}
