// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// ReportPercentiles reports the median, the 99th percentile and the maximum of a
// benchmark's rounds in milliseconds, instead of their mean.
func ReportPercentiles(b *testing.B, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	b.ReportMetric(0, "ns/op")
	for _, p := range []int{50, 99, 100} {
		i := max(len(took)*p/100, 1) - 1
		b.ReportMetric(took[i].Seconds()*1e3, fmt.Sprintf("ms/p%d", p))
	}
}
