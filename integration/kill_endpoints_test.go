// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// endpointKillCases are changes of networks or endpoints.
func endpointKillCases() []killCase {
	attach := func(a nat.EndpointSpec, specs ...string) func(*engine.Engine) error {
		return func(e *engine.Engine) error {
			a := a
			for _, text := range specs {
				s, err := nat.ParsePortSpec(text)
				if err != nil {
					return err
				}
				a.Ports = append(a.Ports, s)
			}
			_, err := e.Attach(context.Background(), a)
			return err
		}
	}
	all := append(slices.Clone(stepsUndone), stepsDone...)
	unreserved := all[1:]
	return []killCase{
		{"create", unreserved, func(e *engine.Engine) error {
			_, err := e.CreateNetwork(context.Background(), nat.Network{Name: "more", Prefix: netip.MustParsePrefix("10.99.0.0/24"), NoGuard: true})
			return err
		}},
		{"remove", unreserved, func(e *engine.Engine) error { return e.RemoveNetwork(context.Background(), "spare") }},
		{"attach", all, attach(nat.EndpointSpec{Name: "new", Network: "inside"}, "80", "8100-8109:80-89/udp", "192.0.2.1:8443:443")},
		{"attach at an address", all, attach(nat.EndpointSpec{Name: "new", Address: netip.MustParseAddr("fd00:30::9")}, "8090:80")},
		{"attach without ports", all, attach(nat.EndpointSpec{Name: "new", Network: "inside"})},
		{"detach", unreserved, func(e *engine.Engine) error { _, err := e.Detach(context.Background(), "web"); return err }},
		{"apply a state", all, func(e *engine.Engine) error {
			s, err := e.State(context.Background())
			if err != nil {
				return err
			}
			s.Networks = slices.DeleteFunc(s.Networks, func(n nat.Network) bool { return n.Name == "spare" })
			s.Networks = append(s.Networks, nat.Network{Name: "new", Prefix: netip.MustParsePrefix("10.98.0.0/24")})
			s.Endpoints[0].Name = "renamed"
			_, err = e.ApplyState(context.Background(), s)
			return err
		}},
	}
}

// declareEndpoints declares the networks and endpoints that these change, and returns the
// state with them.
func declareEndpoints(t *testing.T, e *engine.Engine, top *lab.Topology) nat.State {
	t.Helper()
	declare(t, e, top)
	_, err := e.CreateNetwork(t.Context(), nat.Network{Name: "spare", Prefix: netip.MustParsePrefix("10.97.0.0/24")})
	require.NoError(t, err)
	attachAt(t, e, "db", top.Backend2, "8081:80", "8082:53/udp")
	attachAt(t, e, "web", top.Backend1, "8080:80", ":53/udp")
	publish(t, e, "7000->172.30.0.2:80")
	s, err := e.State(t.Context())
	require.NoError(t, err)
	return s
}

// A process that is killed at any step of a change of networks and endpoints leaves the
// change wholly done or wholly undone: addresses, cursors and ports alike.
func TestKillEndpoints(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	labtest.EchoTCP(t, top.Backend2, "db", ":80")
	for _, c := range labtest.Some(t, "changes of endpoints killed at each step", 3, endpointKillCases()) {
		e := open(t, top.Host, engine.Options{})
		before := declareEndpoints(t, e, top)
		require.NoError(t, c.do(e))
		after, err := e.State(t.Context())
		require.NoError(t, err)
		require.NotEqual(t, before, after)
		done := sortedElements(t, top.Host)
		require.NoError(t, e.Purge(t.Context()))
		for _, step := range c.steps {
			t.Run(c.name+" killed at "+step, func(t *testing.T) {
				e := open(t, top.Host, engine.Options{})
				require.Equal(t, before, declareEndpoints(t, e, top))
				undone := sortedElements(t, top.Host)
				require.NoError(t, e.Close())
				c.kill(t, top.Host, step, "")

				e = open(t, top.Host, engine.Options{})
				state, elements := before, undone
				if slices.Contains(stepsDone, step) {
					state, elements = after, done
				}
				got, err := e.State(t.Context())
				require.NoError(t, err)
				require.Equal(t, state, got)
				require.Equal(t, elements, sortedElements(t, top.Host))
				labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8081", "db")
				if !slices.Contains(stepsDone, step) {
					require.NoError(t, c.do(e))
				}
				got, err = e.State(t.Context())
				require.NoError(t, err)
				require.Equal(t, after, got)
				require.Equal(t, done, sortedElements(t, top.Host))
				require.NoError(t, e.Purge(t.Context()))
			})
		}
	}
}
