// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

func TestParseTTL(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "1h30m": 90 * time.Minute, "1d": 24 * time.Hour, "2w": 14 * 24 * time.Hour,
		"1w2d3h4m5s": 9*24*time.Hour + 3*time.Hour + 4*time.Minute + 5*time.Second,
		"1.5d":       36 * time.Hour, "250ms": 250 * time.Millisecond, "1ns": 1, "2µs": 2 * time.Microsecond, "36500d": 36500 * 24 * time.Hour,
	} {
		ttl, err := nat.ParseTTL(text)
		require.NoError(t, err, text)
		require.Equal(t, want, ttl, text)
	}
	const form = "it is not written like 90s, 1h30m, 1d or 2w"
	for text, reason := range map[string]string{
		"": form, "1": form, "d": form, "1D": form, "1 d": form, "-1d": form, "+1d": form, "1d-1h": form, "1y": form, "1h1": form,
		"soon": form, "1..5d": form, ".d": form, "１d": form, "1dw": form, "99999999999999999999w": form,
		"0": "it must be more than 0", "0d": "it must be more than 0", "0s": "it must be more than 0", "0w0h": "it must be more than 0",
		"15251w": "it is more than 292 years", "15250w1d200w": "it is more than 292 years",
	} {
		ttl, err := nat.ParseTTL(text)
		var invalid *nat.InvalidError
		require.ErrorAs(t, err, &invalid, text)
		require.Equal(t, reason, invalid.Reason, text)
		require.Zero(t, ttl)
	}
}

// What ParseTTL takes is more than zero; what Go reads as a duration without a sign is
// taken as just that.
func FuzzParseTTL(f *testing.F) {
	for _, seed := range []string{"1d", "2w", "1h30m", "1.5w", "0", "-1h", "9223372036854775807ns", "106751d", "15251w", ".5d", "1e3s", "µs", "1\x00d"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ttl, err := nat.ParseTTL(text)
		if err != nil {
			require.ErrorIs(t, err, nat.ErrInvalid)
			require.NotContains(t, err.Error(), "\n")
		} else {
			require.Positive(t, ttl)
		}
		d, goErr := time.ParseDuration(text)
		if goErr == nil && d > 0 && !strings.HasPrefix(text, "+") {
			require.NoError(t, err)
			require.Equal(t, d, ttl)
		}
	})
}
