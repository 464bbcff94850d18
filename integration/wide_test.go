// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// ls --wide counts the connections of each mapping, those of a range together.
func TestListWide(t *testing.T) {
	inEachMode(t, lab.PartBackend1, func(t *testing.T, top *lab.Topology, m mode) {
		t.Helper()
		if m.testbed != nil {
			m.testbed.loopback = "proxy" // which is counted
		}
		labtest.EchoTCP(t, top.Backend1, "backend", ":80")
		m.do(t, "add tcp 8080 172.30.0.2:80 --name web")
		m.do(t, "add tcp 9000-9001 172.30.0.2:80-81")
		hold := func(ns *lab.NS, address string) {
			c, err := ns.Dial(t.Context(), "tcp", address)
			require.NoError(t, err)
			t.Cleanup(func() { _ = c.Close() })
		}
		hold(top.Client, "192.0.2.1:8080")
		hold(top.Client, "192.0.2.1:8080")
		hold(top.Client, "192.0.2.1:9000")
		proxied := 0
		if m.testbed != nil {
			proxied = 1
			hold(top.Host, "127.0.0.1:8080")
		}
		rows := regexp.MustCompile(`(?m)^PROTO .* EXPIRES  CONNECTIONS\ntcp +8080 .* (\d+)\ntcp +9000-9001 .* 1\n$`)
		await(t, "the connections to be counted", func() bool {
			found := rows.FindStringSubmatch(m.do(t, "ls --wide"))
			return found != nil && found[1] == map[int]string{0: "2", 1: "3"}[proxied]
		})
		var docs []struct {
			Port                             int
			Translated, Proxied, ProxiedEver int
		}
		require.NoError(t, json.Unmarshal([]byte(m.do(t, "ls --wide --json --name web")), &docs))
		require.Len(t, docs, 1)
		require.Equal(t, []int{8080, 2, proxied}, []int{docs[0].Port, docs[0].Translated, docs[0].Proxied})
		require.Equal(t, "[]\n", m.do(t, "ls udp --wide --json"))
	})
}
