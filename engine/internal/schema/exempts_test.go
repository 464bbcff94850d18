// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// Rules that ask what is not in a set of ranges, or accept what is in one, find exemptions there.
func TestExempts(t *testing.T) {
	table := Ruleset("nftnat")
	var want []string
	for _, m := range regexp.MustCompile(`!= @(\S+)|@(\S+) accept`).FindAllStringSubmatch(table.String(), -1) {
		if s, ok := table.Set(m[1] + m[2]); ok && s.Interval {
			want = append(want, s.Name)
		}
	}
	var have []string
	for _, s := range table.Sets {
		if Exempts(s.Name) {
			have = append(have, s.Name)
		}
	}
	require.Len(t, have, 16)
	require.Equal(t, slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(have)))
}
