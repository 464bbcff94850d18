// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
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
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		require.NoError(t, enc.Encode(Mappings(ms)))
		got := string(appendMappings(nil, ms)) + "\n"
		require.Equal(t, want.String(), got)

		read, ok := scanMappings(got)
		require.Equal(t, plain, ok, got)
		if ok {
			require.Len(t, read, len(all))
			for i := range all {
				all[i].More = 0
				require.Equal(t, all[i], read[i])
			}
		}
	}
}

// Any other form is for encoding/json, or is no JSON.
func TestScanMappingsLeavesOthers(t *testing.T) {
	const one = `{"proto":"tcp","host":"","port":1,"backend":"10.0.0.1:1","name":"","proxy":true}`
	for _, text := range []string{
		"", "[", "null", "{}", "[" + one, "[" + one + ",", "[" + one + ",]", one, "[" + one + one + "]", "[" + one + "]]",
		"[" + strings.Replace(one, "}", `,"later":1}`, 1) + "]", "[ " + one + "]", "[" + strings.Replace(one, "true", "1", 1) + "]",
		"[" + strings.Replace(one, "tcp", "sctp", 1) + "]", "[" + strings.Replace(one, ":1,", ":65536,", 1) + "]",
		"[" + strings.Replace(one, "}", `,"expires":"soon"}`, 1) + "]", "[" + strings.Replace(one, "10.0.0.1:1", "10.0.0.1", 1) + "]",
	} {
		_, ok := scanMappings(text)
		require.False(t, ok, text)
	}
	ms, ok := scanMappings("[" + one + "," + one + "]")
	require.True(t, ok)
	require.Len(t, ms, 2)
}
