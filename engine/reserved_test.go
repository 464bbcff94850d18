// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseReservedPorts(t *testing.T) {
	for text, want := range map[string][]portRange{
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
			require.NotZero(t, r.first)
			require.LessOrEqual(t, r.first, r.last)
			again = append(again, fmt.Sprintf("%d-%d", r.first, r.last))
		}
		require.Equal(t, ranges, parseReservedPorts(strings.Join(again, ",")))
	})
}

func TestReservedPortsAreNotRead(t *testing.T) {
	b := newTestbed()
	b.writeSysctl(t, reservedPorts+"/x", "") // a directory where the file belongs
	_, err := b.tryOpen(Options{NoSysctl: true})
	require.ErrorContains(t, err, "read sysctl")
}
