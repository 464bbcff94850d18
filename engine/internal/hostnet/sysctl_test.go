// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseReservedPorts(t *testing.T) {
	for text, want := range map[string][]PortRange{
		"":                      nil,
		"8080":                  {{8080, 8080}},
		"8080,9148-9150":        {{8080, 8080}, {9148, 9150}},
		"0":                     nil,
		"0-5":                   {{1, 5}},
		"65535":                 {{65535, 65535}},
		"1-65535":               {{1, 65535}},
		"65536,1-65536,7":       {{7, 7}},
		"5-4,6":                 {{6, 6}},
		",,-,1-,-1,a,0x10, 8,9": {{9, 9}},
	} {
		require.Equal(t, want, parseReservedPorts(text), "%q", text)
	}
}

func FuzzReservedPorts(f *testing.F) {
	for _, text := range []string{"", "8080,9148-9150", "0-65535", "5-4", "1-2-3", ",-,"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var again []string
		ranges := parseReservedPorts(text)
		for _, r := range ranges {
			require.NotZero(t, r.First)
			require.LessOrEqual(t, r.First, r.Last)
			again = append(again, fmt.Sprintf("%d-%d", r.First, r.Last))
		}
		require.Equal(t, ranges, parseReservedPorts(strings.Join(again, ",")))
	})
}
