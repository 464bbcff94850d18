// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"io/fs"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
	nftables "github.com/nftnat/nftnat/nft"
)

// BenchmarkRepair measures how long the table is missing after it was deleted, for some
// numbers of mappings.
func BenchmarkRepair(b *testing.B) {
	for _, count := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("mappings=%d", count), func(b *testing.B) {
			ns := labtest.NewNS(b, "host")
			e, _ := runEngine(b, ns, engine.Options{NoSysctl: true})
			m, err := nat.ParseMappingText(fmt.Sprintf("1-%d->10.9.0.2:1-%d", count, count))
			require.NoError(b, err)
			_, err = e.Publish(b.Context(), nat.PublishOptions{}, m)
			require.NoError(b, err)
			var foreign *nftables.Conn
			require.NoError(b, ns.Do(func() (err error) {
				foreign, err = nftables.Dial(nil)
				return err
			}))
			b.Cleanup(func() { require.NoError(b, foreign.Close()) })
			var away []time.Duration
			for b.Loop() {
				next := time.Now().Add(100 * time.Millisecond) // so that the repair is not delayed
				require.NoError(b, foreign.DeleteTable(engine.DefaultTable))
				begin := time.Now()
				for {
					_, err := foreign.Table(engine.DefaultTable)
					if err == nil {
						break
					}
					require.ErrorIs(b, err, fs.ErrNotExist)
					time.Sleep(20 * time.Microsecond) // leaves the processors to the daemon
				}
				away = append(away, time.Since(begin))
				time.Sleep(time.Until(next))
			}
			labtest.ReportPercentiles(b, away)
		})
	}
}
