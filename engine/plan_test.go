// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/nat"
)

// Whatever the ruleset has is explained, in a line, and the rest is the plan.
func TestExplainedPlan(t *testing.T) {
	plan, err := Plan("mine")
	require.NoError(t, err)
	explained, err := ExplainedPlan("mine")
	require.NoError(t, err)
	var rest strings.Builder
	lines := strings.SplitAfter(explained, "\n")
	for i, line := range lines {
		if !strings.HasPrefix(line, "\t# ") {
			rest.WriteString(line)
		}
		words := strings.Fields(line)
		if len(words) != 3 || words[2] != "{" {
			continue
		}
		switch words[0] {
		case "map", "set":
			require.Regexp(t, `^\t# \S.{20,}\n$`, lines[i-1])
		case "chain":
			require.Regexp(t, `^\t\tcomment ".{10,}"\n$`, lines[i+1])
		}
	}
	require.Equal(t, plan, rest.String())
	require.Equal(t, len(schema.Ruleset("mine").Sets), strings.Count(explained, "\t# "))

	_, err = ExplainedPlan("dnat")
	require.ErrorIs(t, err, nat.ErrInvalid)
}
