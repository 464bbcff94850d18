// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// benchSeconds is how long each measurement takes; BENCH_SECONDS overrides.
func benchSeconds() float64 {
	if s, err := strconv.ParseFloat(os.Getenv("BENCH_SECONDS"), 64); err == nil {
		return s
	}
	return 0.5
}

// peer is one way to the backend. pid is the process that stands in the way,
// 0 if none.
type peer struct {
	name, addr string
	pid        int
}

// otherPeers reads name=addr@pid words from the environment: other proxies to
// the same backend, whose address must be given too, by BENCH_BACKEND.
func otherPeers(b *testing.B, variable string) []peer {
	b.Helper()
	var ps []peer
	for o := range strings.FieldsSeq(os.Getenv(variable)) {
		name, rest, _ := strings.Cut(o, "=")
		addr, pid, _ := strings.Cut(rest, "@")
		n, err := strconv.Atoi(pid)
		require.NoError(b, err)
		ps = append(ps, peer{name, addr, n})
	}
	return ps
}

// BenchmarkTCP measures the proxy against no proxy and against a pair of
// goroutines with io.Copy, the three in turn, each in a process of its own
// like backend and client. Ratios to direct are what can be compared.
func BenchmarkTCP(b *testing.B) {
	backend, _ := backends(b)
	out, pid := child(b, "pairs", "BACKEND="+backend)
	pairs, err := out.ReadString('\n')
	require.NoError(b, err)
	h := newHost(b)
	peers := append([]peer{
		{"direct", backend, 0}, {"proxy", h.ask("tcp %s", backend), h.pid}, {"pairs", strings.TrimSpace(pairs), pid},
	}, otherPeers(b, "BENCH_TCP_PEERS")...)
	for _, way := range fronts(b, "tcp")[1:] {
		peers = append(peers, peer{"ports", h.ask("%s %s", way, backend), h.pid})
	}
	for _, l := range []struct {
		name string
		load
	}{
		{"bulk-1", load{Kind: "bulk", Workers: 1}},
		{"bulk-8", load{Kind: "bulk", Workers: 8}},
		{"conns-1", load{Kind: "conns", Workers: 1}},
		{"conns-8", load{Kind: "conns", Workers: 8}},
		{"rr-1", load{Kind: "rr", Workers: 1, Size: 64}},
		{"rr-32", load{Kind: "rr", Workers: 32, Size: 64}},
		{"rr16k-8", load{Kind: "rr", Workers: 8, Size: 16 << 10}},
		{"rr64k-8", load{Kind: "rr", Workers: 8, Size: 64 << 10}},
	} {
		b.Run(l.name, func(b *testing.B) {
			rates := make([][]measured, len(peers))
			for range b.N {
				for i, peer := range peers {
					l.Addr, l.Seconds = peer.addr, benchSeconds()
					rates[i] = append(rates[i], apply(b, l.load, peer.pid))
				}
			}
			direct := median(rates[0])
			for i, peer := range peers {
				m := median(rates[i])
				if l.Kind == "bulk" {
					b.ReportMetric(m.Rate*8/1e6, peer.name+"-Mbit/s")
					if i > 0 {
						b.ReportMetric(m.CPU/(m.Rate*l.Seconds/1e9), peer.name+"-cpu-s/GB")
					}
				} else {
					b.ReportMetric(m.Rate, peer.name+"/s")
					b.ReportMetric(m.P50, peer.name+"-p50-us")
					if i > 0 {
						b.ReportMetric(m.CPU/(m.Rate*l.Seconds)*1e6, peer.name+"-cpu-us/op")
					}
				}
				if i > 0 {
					b.ReportMetric(m.Rate/direct.Rate, peer.name+"-ratio")
				}
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func median(ms []measured) measured {
	slices.SortFunc(ms, func(x, y measured) int { return cmp.Compare(x.Rate, y.Rate) })
	return ms[len(ms)/2]
}

// BenchmarkUDP is BenchmarkTCP for datagrams. What a flood delivers is counted
// by the backend.
func BenchmarkUDP(b *testing.B) {
	_, backend := backends(b)
	h := newHost(b)
	peers := append([]peer{{"direct", backend, 0}, {"proxy", h.ask("udp %s", backend), h.pid}}, otherPeers(b, "BENCH_UDP_PEERS")...)
	for _, way := range fronts(b, "udp")[1:] {
		peers = append(peers, peer{"ports", h.ask("%s %s", way, backend), h.pid})
	}
	for _, l := range []struct {
		name string
		load
	}{
		{"rr-1", load{Kind: "udp-rr", Workers: 1, Size: 64}},
		{"rr-32", load{Kind: "udp-rr", Workers: 32, Size: 64}},
		{"flood-64", load{Kind: "udp-flood", Workers: 1, Size: 64}},
		{"flood-1400", load{Kind: "udp-flood", Workers: 1, Size: 1400}},
	} {
		b.Run(l.name, func(b *testing.B) {
			rates := make([][]measured, len(peers))
			for range b.N {
				for i, peer := range peers {
					l.Addr, l.Seconds = peer.addr, benchSeconds()
					if l.Kind == "udp-flood" {
						rates[i] = append(rates[i], flood(b, l.load, backend))
					} else {
						rates[i] = append(rates[i], apply(b, l.load, peer.pid))
					}
				}
			}
			direct := median(rates[0])
			for i, peer := range peers {
				m := median(rates[i])
				b.ReportMetric(m.Rate, peer.name+"/s")
				if i > 0 {
					b.ReportMetric(m.Rate/direct.Rate, peer.name+"-ratio")
				}
				if m.P50 > 0 {
					b.ReportMetric(m.P50, peer.name+"-p50-us")
				}
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// flood measures what of a flood arrives.
func flood(b *testing.B, l load, backend string) measured {
	b.Helper()
	c := dial(b, "udp", backend)
	count := func() float64 {
		buf, n := make([]byte, 32), 0
		for n == 0 { // the question is lost in a flood that is not over yet
			_, err := c.Write([]byte{countMark})
			require.NoError(b, err)
			require.NoError(b, c.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
			n, _ = c.Read(buf)
		}
		v, err := strconv.ParseFloat(string(buf[:n]), 64)
		require.NoError(b, err)
		return v
	}
	count()
	m := apply(b, l, 0)
	time.Sleep(20 * time.Millisecond)
	m.Rate = count() / l.Seconds
	return m
}
