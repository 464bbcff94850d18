// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/explain/internal/host"
	"github.com/nftnat/nftnat/nat"
)

// anyFrontend finds the mapping of a scene at whatever frontend.
type anyFrontend struct{ *scene }

func (a anyFrontend) Find(_ context.Context, _ nat.Proto, frontend netip.AddrPort) ([]nat.Mapping, error) {
	m := a.mapping
	m.Frontend = frontend
	return []nat.Mapping{m}, nil
}

func warned(t *testing.T, s *scene, more ...nat.Mapping) (lines []string) {
	t.Helper()
	e := &Explainer{options: Options{Table: "nftnat", Mappings: anyFrontend{s}}, end: func() error { return nil }}
	e.read = func(context.Context) (facts, evaluator, error) { return s.fake, s.rules, nil }
	found, err := e.Warn(t.Context(), time.Minute, append([]nat.Mapping{s.mapping}, more...))
	require.NoError(t, err)
	for _, f := range found {
		lines = append(lines, f.String())
	}
	return lines
}

// What is wrong with a mapping is a line; what is not certain is none.
func TestWarn(t *testing.T) {
	forward := table(unix.NFPROTO_INET, "corpwall", "passing", unix.NF_INET_FORWARD, 0)
	private := func(s *scene) {
		s.mapping.Backend = netip.MustParseAddrPort("10.9.9.9:80")
		s.route("0.0.0.0/0", "192.0.2.254", eth0, netip.MustParseAddr("192.0.2.1"))
	}
	for _, c := range []struct {
		name, line string
		inject     func(s *scene)
	}{
		{"healthy", "", func(*scene) {}},
		{"silent", "", func(s *scene) { s.probe.Answer = host.Silent }},
		{"another client's", "", func(s *scene) {
			s.rules.stop = dropAt(forward, nil, eval.Forward, func(p *eval.Packet) bool { return p.Src == netip.MustParseAddr("203.0.113.9") })
		}},
		{"address", "", func(s *scene) { s.mapping.Frontend = netip.MustParseAddrPort("192.0.2.7:8080") }},
		{"refused", "tcp 8080: stopped: backend 172.30.0.2:80: nothing listens on it", func(s *scene) { s.probe.Answer = host.Refused }},
		{"away", "tcp 8080: stopped: neighbour 172.30.0.2 dev br0", func(s *scene) { s.probe.Answer = host.NoNeighbour }},
		{"perhaps slow", "", func(s *scene) {
			s.probe.Answer = host.NoNeighbour
			s.links[vb1-1].Kind = ""
		}},
		{"failed before", "tcp 8080: stopped: neighbour 172.30.0.2 dev br0", func(s *scene) {
			s.probe.Answer = host.NoNeighbour
			s.links[vb1-1].Kind = ""
			s.neighbours = append(s.neighbours, &host.Neighbour{Addr: s.mapping.Backend.Addr(), Link: br0, State: unix.NUD_FAILED})
		}},
		{"dropped", "tcp 8080: stopped: table inet corpwall, chain passing", func(s *scene) { s.rules.stop = dropAt(forward, nil, eval.Forward, request) }},
		{"no route", "tcp 8080: stopped: no route to 10.9.9.9", func(s *scene) { s.mapping.Backend = netip.MustParseAddrPort("10.9.9.9:80") }},
		{"default route", "tcp 8080: may be stopped: default via 192.0.2.254 dev eth0", func(s *scene) {
			private(s)
			s.probe.Answer = host.Silent
		}},
		{"default route, answers", "", private},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t, "8080->172.30.0.2:80")
			c.inject(s)
			lines := warned(t, s)
			if c.line == "" {
				require.Empty(t, lines)
				return
			}
			require.Len(t, lines, 1)
			require.Contains(t, lines[0], c.line)
		})
	}
}

// Of many mappings a sample is looked at, and what all share is one line.
func TestWarnOfMany(t *testing.T) {
	s := newScene(t, "8080->172.30.0.2:80")
	s.rules.stop = dropAt(table(unix.NFPROTO_INET, "corpwall", "passing", unix.NF_INET_PRE_ROUTING, 0), nil, eval.Prerouting, request)
	var more []nat.Mapping
	for i := range uint16(5000) {
		m := s.mapping
		m.Frontend = netip.AddrPortFrom(netip.Addr{}, 10000+i)
		more = append(more, m)
	}
	lines := warned(t, s, more...)
	require.Len(t, lines, 1)
	require.Contains(t, lines[0], fmt.Sprintf("tcp 8080 (and %d more): stopped: table inet corpwall", maxSampled-1))
	require.LessOrEqual(t, s.probed, 1)
	require.Len(t, sample(more), maxSampled)
}
