// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

func TestName(t *testing.T) {
	for long, want := range map[string]string{
		"":                      "",
		"web":                   "web",
		strings.Repeat("n", 63): strings.Repeat("n", 63),
		// Computed by other means.
		strings.Repeat("n", 64): strings.Repeat("n", 36) + "~zydiugk2woakqe6hcmbv5v2jeg",
		"default-4c0e4e4ba2f9b5e1f0c1d3b1a2c9e8f7d6b5a4938271605f4e3d2c1b0a998877": "default-4c0e4e4ba2f9b5e1f0c1d3b1a2c9~kcekrnzf2sqvfk2c2gbh2mu5ha",
		strings.Repeat("x", 35) + "é" + strings.Repeat("y", 60):                    strings.Repeat("x", 35) + "~l2r3qfbjq3tjhg2amllgykemej",
		strings.Repeat("x", 4096): strings.Repeat("x", 36) + "~ultftwwli2i6rb5mae47rcj5ar",
	} {
		require.Equal(t, want, nat.Name(long))
		require.Equal(t, want, nat.Name(want))
	}
	letters := []rune("aé界\U0001f300 ~[]")
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		var b strings.Builder
		for n := 1 + r.IntN(200); n > 0; n-- {
			b.WriteRune(letters[r.IntN(len(letters))])
		}
		name := nat.Name(b.String())
		require.True(t, utf8.ValidString(name))
		require.LessOrEqual(t, len(name), 63)
		require.Equal(t, name, nat.Name(name))
		require.NoError(t, nat.ValidateName(b.String()))
		require.NoError(t, nat.ValidateName(name), "what is kept is a name")
		kept, _ := nat.ParseComment(nat.CommentText(name, nat.CommentAttributes{NoProxy: true, Shared: true, OneFamily: true}))
		require.Equal(t, name, kept)
	}
}

// Long names of endpoints and networks are kept as others, and what is kept is a name.
func TestLongLabels(t *testing.T) {
	long := strings.Repeat("x", 200)
	for _, name := range []string{long, nat.Name(long)} {
		require.NoError(t, nat.ValidateEndpointName(name))
		require.NoError(t, nat.ValidateNetworkName(name))
	}
	for _, name := range []string{
		strings.Repeat("x", 4097), strings.Repeat("x", 36) + "~", nat.Name(long) + "x", "~" + long, long + "~",
		strings.Replace(nat.Name(long), "x~", "~x", 1), "x~" + strings.Repeat("x", 61),
	} {
		require.ErrorIs(t, nat.ValidateEndpointName(name), nat.ErrInvalid, name)
	}
}
