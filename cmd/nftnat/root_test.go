// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

// A verb that is made alone is the same as one among all.
func TestVerbsAlone(t *testing.T) {
	t.Setenv(envSocket, "")
	ask := func(only []verb, args ...string) string {
		var out bytes.Buffer
		root := newRoot(io.Discard, only)
		root.SetArgs(args)
		root.SetOut(&out)
		root.SetErr(&out)
		if err := root.Execute(); err != nil {
			out.WriteString(err.Error())
		}
		return out.String()
	}
	for _, v := range verbs() {
		only := asked([]string{v.name})
		require.Len(t, only, 1)
		for _, args := range [][]string{
			{v.name, "--help"}, {v.name, "--no-such-flag"}, {v.name, "a", "b", "c", "d", "--no-such-flag"}, {v.name, "no-such-verb", "--help"},
		} {
			require.Equal(t, ask(nil, args...), ask(only, args...), args)
		}
		require.Contains(t, ask(only, v.name, "--help"), "nftnat "+v.name)
	}
	for _, args := range [][]string{nil, {"--help"}, {"help", "add"}, {"--json", "version"}, {"completion", "bash"}, {"__complete", "add", ""}, {"ad"}} {
		require.Empty(t, asked(args), args)
	}
}
