// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/explain"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// foreignRules is a table with so many rules, half of them where packets are forwarded.
func foreignRules(n int) string {
	var b strings.Builder
	for i, chain := range []string{"forward priority filter", "prerouting priority mangle"} {
		fmt.Fprintf(&b, "table inet big { chain c%d { type filter hook %s;\n", i, chain)
		for k := range n / 2 {
			fmt.Fprintf(&b, "ip saddr 10.%d.%d.1 drop\n", k>>8, k&0xff)
		}
		b.WriteString("}\n}\n")
	}
	return b.String()
}

// One explanation beside 10,000 rules of others, and one of many of a snapshot.
func BenchmarkExplain(b *testing.B) {
	top, err := lab.Build(lab.Options{Parts: lab.PartBackend1, Forwarding: true})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, top.Close()) })
	e := open(b, top.Host, engine.Options{})
	labtest.EchoTCP(b, top.Backend1, "backend1", ":80")
	m := nat.Mapping{Proto: nat.TCP, Frontend: netip.AddrPortFrom(netip.Addr{}, 8080), Backend: netip.AddrPortFrom(top.Backend1.V4, 80)}
	const many = 1000
	m.More = many - 1
	_, err = e.Publish(b.Context(), nat.PublishOptions{}, m)
	m.More = 0
	require.NoError(b, err)
	q := explain.Query{Proto: nat.TCP, Frontend: m.Frontend, From: top.Client.V4}
	for _, rules := range []int{0, 10_000} {
		if rules > 0 {
			labtest.ExecInput(b, top.Host, foreignRules(rules), "nft", "-f", "-")
		}
		for _, probe := range []time.Duration{-1, time.Second} {
			b.Run(fmt.Sprintf("one/rules=%d/probe=%t", rules, probe > 0), func(b *testing.B) {
				for b.Loop() {
					finder, err := engine.OpenFinder(engine.FinderOptions{NetNS: top.Host.Path()})
					require.NoError(b, err)
					x, err := explain.New(explain.Options{NetNS: top.Host.Path(), Mappings: finder, ProbeTimeout: probe})
					require.NoError(b, err)
					r, err := x.Explain(b.Context(), q)
					require.NoError(b, err)
					require.Equal(b, explain.Passes, r.Verdict, r.Text())
					require.NoError(b, x.Close())
					require.NoError(b, finder.Close())
				}
			})
		}
		b.Run(fmt.Sprintf("many/rules=%d", rules), func(b *testing.B) {
			x, err := explain.New(explain.Options{NetNS: top.Host.Path(), ProbeTimeout: -1})
			require.NoError(b, err)
			defer func() { require.NoError(b, x.Close()) }()
			s, err := x.Snapshot(b.Context())
			require.NoError(b, err)
			n := uint16(0)
			for b.Loop() {
				n = (n + 1) % many
				q, m := q, m
				q.Frontend = netip.AddrPortFrom(netip.Addr{}, m.Frontend.Port()+n)
				m.Frontend, m.Backend = q.Frontend, netip.AddrPortFrom(m.Backend.Addr(), m.Backend.Port()+n)
				r := s.Explain(b.Context(), q, m)
				require.Equal(b, explain.Passes, r.Verdict, r.Text())
			}
		})
	}
}
