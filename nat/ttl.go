// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"math"
	"strings"
	"time"
)

// ParseTTL reads a time to live: what [time.ParseDuration] reads, and days (d, of 24
// hours) and weeks (w) as well, such as 90s, 1h30m, 1d12h or 2w. It is more than zero,
// and at most about 292 years. Errors are [*InvalidError].
func ParseTTL(s string) (time.Duration, error) {
	ttl, reason := parseTTL(s)
	if reason != "" {
		return 0, &InvalidError{What: "ttl", Input: s, Reason: reason}
	}
	return ttl, nil
}

const (
	ttlForm = "it is not written like 90s, 1h30m, 1d or 2w"
	ttlLong = "it is more than 292 years"
)

// parseTTL returns the reason of an error, or "".
func parseTTL(s string) (ttl time.Duration, reason string) {
	if s == "" {
		return 0, ttlForm
	}
	for s != "" {
		number := len(s) - len(strings.TrimLeft(s, "0123456789."))
		unit := len(s) - number - len(strings.TrimLeft(s[number:], "abcdefghijklmnopqrstuvwxyzµμ"))
		part, reason := parsePart(s[:number], s[number:number+unit])
		if reason != "" {
			return 0, reason
		}
		if part > math.MaxInt64-ttl {
			return 0, ttlLong
		}
		ttl += part
		s = s[number+unit:]
	}
	if ttl == 0 {
		return 0, "it must be more than 0"
	}
	return ttl, ""
}

// parsePart reads a number with its unit; neither has a sign.
func parsePart(number, unit string) (part time.Duration, reason string) {
	hours := time.Duration(1)
	switch unit {
	case "d":
		hours, unit = 24, "h"
	case "w":
		hours, unit = 7*24, "h"
	}
	part, err := time.ParseDuration(number + unit)
	switch {
	case err != nil:
		return 0, ttlForm
	case part > math.MaxInt64/hours:
		return 0, ttlLong
	}
	return part * hours, ""
}
