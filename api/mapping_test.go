// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// The answer is as encoding/json would write it, and is read back as it would read it.
func TestMappingsInJSON(t *testing.T) {
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	for range 300 {
		var ms, all []nat.Mapping
		plain := true
		for range r.IntN(4) {
			m := nattest.Random(r)
			m.Name = []string{"", "web", "a b", `"`, `\\`, "<&>", "é", "\n", "\xff"}[r.IntN(9)]
			plain = plain && !strings.ContainsAny(m.Name, "\"\\\né") && m.Name != "\xff"
			ms = append(ms, m)
			for single := range nat.Expand(m) {
				all = append(all, single)
			}
		}
		for ranges, want := range map[bool][]nat.Mapping{false: all, true: ms} {
			var text, got bytes.Buffer
			enc := json.NewEncoder(&text)
			enc.SetEscapeHTML(false)
			require.NoError(t, enc.Encode(mappingDocs(ms, ranges)))
			require.NoError(t, WriteMappings(&got, ms, ranges))
			require.Equal(t, text.String(), got.String())

			read, ok := scanMappings(got.String())
			require.Equal(t, plain, ok, got.String())
			if ok {
				require.Equal(t, append([]nat.Mapping{}, want...), read)
			}
		}
	}
}

// A range of many ports is written in parts, and takes memory for one of them.
func TestMappingsInParts(t *testing.T) {
	m := parse(t, "10000-60000->172.17.0.2:10000-60000/udp")
	var text strings.Builder
	parts, most := 0, 0
	for part := range (&mappingList{mappings: slices.Values([]nat.Mapping{m})}).parts {
		text.Write(part)
		parts, most = parts+1, max(most, len(part))
	}
	require.Greater(t, parts, 100)
	require.Less(t, most, 33<<10)
	read, ok := scanMappings(text.String())
	require.True(t, ok)
	require.Equal(t, []nat.Mapping{m}, nat.Collapse(read))
	var ranges strings.Builder
	require.NoError(t, WriteMappings(&ranges, []nat.Mapping{m}, true))
	require.JSONEq(t, `[{"proto":"udp","host":"","port":10000,"last":60000,"backend":"172.17.0.2:10000","name":"","proxy":true}]`, ranges.String())
}

// Any other form is for encoding/json, or is no JSON.
func TestScanMappingsLeavesOthers(t *testing.T) {
	const one = `{"proto":"tcp","host":"","port":1,"backend":"10.0.0.1:1","name":"","proxy":true}`
	for _, text := range []string{
		"", "[", "null", "{}", "[" + one, "[" + one + ",", "[" + one + ",]", one, "[" + one + one + "]", "[" + one + "]]",
		"[" + strings.Replace(one, "}", `,"later":1}`, 1) + "]", "[ " + one + "]", "[" + strings.Replace(one, "true", "1", 1) + "]",
		"[" + strings.Replace(one, "tcp", "sctp", 1) + "]", "[" + strings.Replace(one, ":1,", ":65536,", 1) + "]",
		"[" + strings.Replace(one, "}", `,"expires":"soon"}`, 1) + "]", "[" + strings.Replace(one, "10.0.0.1:1", "10.0.0.1", 1) + "]",
		"[" + strings.Replace(one, ":1,", `:1,"last":0,`, 1) + "]", "[" + strings.Replace(one, ":1,", `:5,"last":4,`, 1) + "]",
		"[" + strings.Replace(one, `"port":1,`, `"port":1,"last":65535,`, 1)[:60] + "]",
	} {
		_, ok := scanMappings(text)
		require.False(t, ok, text)
	}
	ms, ok := scanMappings("[" + one + "," + one + "]")
	require.True(t, ok)
	require.Len(t, ms, 2)
}
