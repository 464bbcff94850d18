// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTableCompare(t *testing.T) {
	r := newTable("Rates", "1/s")
	r.expect("all")
	r.expect("half")
	for _, speed := range []float64{100, 1000, 10, 50} { // rounds differ more than the two
		r.add("half", speed/2)
		r.add("all", speed)
	}
	require.Equal(t, []string{"all", "half"}, r.variants)
	r.compare("half", "all")
	r.compare("half", "half")
	r.compare("half", "nobody")
	require.Equal(t, []string{"half to all, round by round: 0.50, half of the rounds between 0.50 and 0.50"}, r.notes)
	require.Equal(t, row{variant: "half", median: "50", ratio: "0.50", low: "5", high: "500", runs: 4}, r.rows()[1])
}
