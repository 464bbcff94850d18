// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// at is an address to ask, on the port every server here listens on.
func at(a netip.Addr) string { return netip.AddrPortFrom(a, 7000).String() }

// serve starts both servers in each of the machines, under the machine's name.
func serve(t *testing.T, machines ...*lab.NS) {
	t.Helper()
	for _, ns := range machines {
		labtest.EchoTCP(t, ns, ns.Name(), ":7000")
		labtest.EchoUDP(t, ns, ns.Name(), ":7000")
	}
}

func TestTopologyReachability(t *testing.T) {
	labtest.LeakCheck(t)
	for _, forwarding := range []bool{false, true} {
		top := labtest.NewTopology(t, lab.Options{Forwarding: forwarding})
		serve(t, top.Client, top.Host, top.Backend1, top.Backend2, top.Neighbour, top.Far)
		tests := []struct {
			name     string
			from, to *lab.NS
			forwards bool // by way of the host
		}{
			{"client to host", top.Client, top.Host, false},
			{"client to neighbour", top.Client, top.Neighbour, false},
			{"client to backend", top.Client, top.Backend1, true},
			{"far to client", top.Far, top.Client, true},
			{"far to backend", top.Far, top.Backend2, true},
			{"neighbour to backend", top.Neighbour, top.Backend1, true},
			{"host to backend", top.Host, top.Backend2, false},
			{"host to far", top.Host, top.Far, false},
			{"backend to backend", top.Backend1, top.Backend2, false},
			{"backend to host", top.Backend1, top.Host, false},
			{"client to itself", top.Client, top.Client, false},
		}
		for _, tt := range tests {
			for _, network := range []string{"tcp", "udp"} {
				for i, to := range []netip.Addr{tt.to.V4, tt.to.V6} {
					name := tt.name + " " + network + " " + to.String()
					if tt.forwards && !forwarding {
						if tt.from == top.Far {
							continue // each takes its time
						}
						require.Error(t, labtest.NoAnswer(t, tt.from, network, at(to)), name)
						continue
					}
					peer := labtest.Reaches(t, tt.from, network, at(to), tt.to.Name())
					if tt.from != top.Host {
						require.Equal(t, []netip.Addr{tt.from.V4, tt.from.V6}[i], peer.Addr(), name)
					}
				}
			}
		}
	}
}

// What is built is ready: the very first packet arrives, so that no test waits
// a second for the second.
func TestTopologyReady(t *testing.T) {
	labtest.Require(t)
	for range 15 {
		top, err := lab.Build(lab.Options{})
		require.NoError(t, err)
		for _, ns := range top.Namespaces() {
			require.NoError(t, ns.Do(func() error {
				links, err := net.Interfaces()
				require.NoError(t, err)
				groups, err := os.ReadFile("/proc/thread-self/net/igmp6")
				require.NoError(t, err)
				for _, l := range links {
					require.NotZero(t, l.Flags&net.FlagRunning, "%s %s", ns, l.Name)
					if l.Name == lab.MachineLink {
						require.Contains(t, string(groups), fmt.Sprintf("ff0200000000000000000001ff%06x", ns.V6.As16()[15]))
					}
				}
				return nil
			}))
		}
		require.NoError(t, top.Close())
	}
}

func TestTopologyHostAddresses(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1})
	require.Nil(t, top.Switch)
	require.Nil(t, top.Neighbour)
	require.Nil(t, top.Far)
	require.Nil(t, top.Backend2)
	require.Len(t, top.Namespaces(), 3)
	serve(t, top.Host)
	for _, a := range []netip.Addr{top.Host.V4, top.Host.V6, top.Second4, top.Second6} {
		require.True(t, top.LAN4.Contains(a) || top.LAN6.Contains(a))
		for _, network := range []string{"tcp", "udp"} {
			labtest.Reaches(t, top.Client, network, at(a), "host")
		}
	}
	for _, a := range []netip.Addr{top.Gateway4, top.Gateway6} {
		require.True(t, top.Inside4.Contains(a) || top.Inside6.Contains(a))
		labtest.Reaches(t, top.Backend1, "tcp", at(a), "host")
		labtest.Reaches(t, top.Backend1, "udp", at(a), "host")
	}
}

func TestTopologySettings(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1})
	forwarding := func() (values []string) {
		for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
			v, err := top.Host.ReadSysctl(key)
			require.NoError(t, err)
			values = append(values, v)
		}
		return values
	}
	require.Equal(t, []string{"0", "0"}, forwarding())
	require.NoError(t, top.SetForwarding(true))
	require.Equal(t, []string{"1", "1"}, forwarding())
	require.NoError(t, top.SetForwarding(false))
	require.Equal(t, []string{"0", "0"}, forwarding())
	require.NoError(t, top.Close())
	require.NoError(t, top.Close())
	require.ErrorIs(t, top.SetForwarding(true), os.ErrClosed)
}

// The second LAN address is the host's, and not another machine's.
func TestTopologyLAN(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartNeighbour})
	require.NotNil(t, top.Switch)
	serve(t, top.Host, top.Neighbour)
	for _, a := range []netip.Addr{top.Host.V4, top.Host.V6, top.Second4, top.Second6} {
		labtest.Reaches(t, top.Client, "tcp", at(a), "host")
		labtest.Reaches(t, top.Neighbour, "udp", at(a), "host")
	}
	require.Error(t, labtest.NoAnswer(t, top.Neighbour, "tcp", at(top.FarNet4.Addr().Next())), "the neighbour has no default route")
}

func TestExecInside(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1})
	out := labtest.Exec(t, top.Backend1, "ip", "-o", "addr")
	require.Contains(t, out, "172.30.0.2/24")
	require.NotContains(t, strings.ToLower(out), "tentative")
}

func BenchmarkBuild(b *testing.B) {
	labtest.Require(b)
	for b.Loop() {
		top, err := lab.Build(lab.Options{})
		require.NoError(b, err)
		require.NoError(b, top.Close())
	}
}

func top1() lab.Options { return lab.Options{Parts: lab.PartBackend1} }
