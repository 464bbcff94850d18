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

// BenchmarkRepair is how long the table is away, with so many mappings in it, after
// somebody has deleted it.
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
				peace := time.Now().Add(100 * time.Millisecond) // as who does not fight
				require.NoError(b, foreign.DeleteTable(engine.DefaultTable))
				begin := time.Now()
				for {
					_, err := foreign.Table(engine.DefaultTable)
					if err == nil {
						break
					}
					require.ErrorIs(b, err, fs.ErrNotExist)
					time.Sleep(20 * time.Microsecond) // leaves the processors to whom it is about
				}
				away = append(away, time.Since(begin))
				time.Sleep(time.Until(peace))
			}
			labtest.ReportPercentiles(b, away)
		})
	}
}
