// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

func TestMappingDocs(t *testing.T) {
	ms := []nat.Mapping{nattest.Mapping(t, "8000-8009->172.17.0.2:9000-9009"), nattest.Mapping(t, "53->172.17.0.2:53/udp")}
	for ranges, want := range map[bool]int{false: 11, true: 2} {
		g := global{ranges: ranges}
		var out bytes.Buffer
		require.NoError(t, printJSON(&out, g.mappingDoc(ms)))
		require.Equal(t, want, strings.Count(out.String(), `"proto"`))
		require.Equal(t, ranges, strings.Contains(out.String(), `"port":8000,"last":8009,"backend":"172.17.0.2:9000"`))
		ep := nat.Endpoint{Mappings: ms}
		require.Len(t, g.endpointDoc(ep).Mappings, want)
		require.Len(t, g.endpointDocs([]nat.Endpoint{ep})[0].Mappings, want)
		require.Equal(t, want, strings.Count(jsonOf(t, g.changeDocs([]nat.Change{{New: ms[0]}, {Old: ms[1]}})), `"proto"`))
	}
	require.Equal(t, "[]\n", jsonOf(t, (&global{}).endpointDocs(nil)))
}

func jsonOf(t *testing.T, doc any) string {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, printJSON(&out, doc))
	return out.String()
}

// The connections of a range are those of its ports.
func TestWideRanges(t *testing.T) {
	count := func(text string, n int) nat.Connections {
		return nat.Connections{Mapping: nattest.Mapping(t, text), Translated: n, Proxied: 1, ProxiedEver: 2}
	}
	l := wideList{
		mappings: []nat.Mapping{
			nattest.Mapping(t, "8080->10.0.0.1:80"), nattest.Mapping(t, "10000-19999->10.0.0.1:10000-19999"),
			nattest.Mapping(t, "20000->10.0.0.1:80"), nattest.Mapping(t, "192.0.2.1:10000-10001->10.0.0.2:10000-10001"),
		},
		ports: []nat.Connections{
			count("8080->10.0.0.1:80", 1), count("10000->10.0.0.1:10000", 10), count("15000->10.0.0.1:15000", 100),
			count("19999->10.0.0.1:19999", 1000), count("192.0.2.1:10001->10.0.0.2:10001", 5),
		},
	}
	var out strings.Builder
	require.NoError(t, l.print(&out))
	var sums []string
	for line := range strings.Lines(out.String()) {
		fields := strings.Fields(line)
		sums = append(sums, fields[1]+" "+fields[len(fields)-1])
	}
	require.Equal(t, []string{"FRONTEND CONNECTIONS", "8080 2", "10000-19999 1113", "20000 0", "192.0.2.1:10000-10001 6"}, sums)

	docs := (&global{ranges: true}).wideDocs(l)
	require.Len(t, docs, 4)
	require.Equal(t, wideMapping{docs[1].Mapping, 1110, 3, 6}, docs[1])
	require.EqualValues(t, 19999, docs[1].Last)
	docs = (&global{}).wideDocs(l)
	require.Len(t, docs, 10_004)
	require.Equal(t, wideMapping{docs[5001].Mapping, 100, 1, 2}, docs[5001])
	require.EqualValues(t, 15000, docs[5001].Port)
}

func TestLeadingToPortOfRange(t *testing.T) {
	ms := []nat.Mapping{nattest.Mapping(t, "8000-8009->172.17.0.2:9000-9009"), nattest.Mapping(t, "80->172.17.0.2:9003"), nattest.Mapping(t, "1-2->172.17.0.2:1-2/udp")}
	found := leadingTo(ms, nat.PortSpec{Proto: nat.TCP, Backend: 9003})
	require.Equal(t, []nat.Mapping{ms[1], nattest.Mapping(t, "8003->172.17.0.2:9003")}, found)
	require.Empty(t, leadingTo(ms, nat.PortSpec{Proto: nat.TCP, Backend: 1}))
	require.Empty(t, leadingTo(ms, nat.PortSpec{Proto: nat.TCP, Backend: 9010}))
}
