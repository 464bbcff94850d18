// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// Every kind of mapping, with real packets: {tcp, udp} × {IPv4, IPv6} × {any address,
// one address, any of one family} × {one port, a range}.
func TestTraffic(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	e := open(t, top.Host, engine.Options{})
	for _, network := range []string{"tcp", "udp"} {
		for _, port := range []int{80, 9000, 9002, 9004} {
			labtest.Echo(t, top.Backend1, network, fmt.Sprint("port", port), fmt.Sprint(":", port))
		}
	}
	for _, c := range trafficCases(top) {
		t.Run(c.name(), func(t *testing.T) { c.test(t, top, e) })
	}
}

// trafficCase is one cell of the matrix.
type trafficCase struct {
	network     string
	family      family
	other       family // of the two
	frontend    string // "any", "one", "wildcard"
	first, last int    // frontend ports
	backend     int    // first backend port
}

func trafficCases(top *lab.Topology) []trafficCase {
	var cs []trafficCase
	both := families(top)
	for _, network := range []string{"tcp", "udp"} {
		for i, f := range both {
			for _, frontend := range []string{"any", "one", "wildcard"} {
				for _, r := range [][3]int{{8080, 8080, 80}, {8000, 8004, 9000}} {
					cs = append(cs, trafficCase{network, f, both[1-i], frontend, r[0], r[1], r[2]})
				}
			}
		}
	}
	return cs
}

func (c trafficCase) name() string {
	kind := "single"
	if c.first != c.last {
		kind = "range"
	}
	return strings.Join([]string{c.network, c.family.name, c.frontend, kind}, "/")
}

func (c trafficCase) mapping() string {
	host := map[string]netip.Addr{"one": c.family.host, "wildcard": c.family.wildcard}[c.frontend]
	return toward(host, c.first, c.last) + "->" +
		toward(c.family.backend1, c.backend, c.backend+c.last-c.first) + suffix(c.network)
}

func (c trafficCase) test(t *testing.T, top *lab.Topology, e *engine.Engine) {
	t.Helper()
	c.refused(t, top.Client, c.family.host)
	publish(t, e, c.mapping())

	c.reached(t, top.Client, c.family.host, c.family.client)
	// The host's own packets pass the output hook. Their source is the address that they go to.
	c.reached(t, top.Host, c.family.host, c.family.host)
	if c.frontend == "one" {
		c.refused(t, top.Client, c.family.second)
	} else {
		c.reached(t, top.Client, c.family.second, c.family.client)
	}
	if c.frontend != "any" {
		c.refused(t, top.Client, c.other.host)
	}
	for _, port := range []int{c.first - 1, c.last + 1} {
		require.ErrorIs(t, labtest.NoAnswer(t, top.Client, c.network, at(c.family.host, port)), unix.ECONNREFUSED)
	}

	flow := dialFlow(t, top.Client, c.network, at(c.family.host, c.last))
	require.Equal(t, c.server(c.last), flow.name(t))
	unpublish(t, e, c.mapping())
	require.Empty(t, published(e))
	c.refused(t, top.Client, c.family.host)
	c.refused(t, top.Host, c.family.host)
	if c.network == "udp" {
		// From the same source port: conntrack must have forgotten the flow too.
		require.ErrorIs(t, flow.refused(t), unix.ECONNREFUSED)
	}
}

// samples returns the first, a middle and the last port.
func (c trafficCase) samples() []int {
	if c.first == c.last {
		return []int{c.first}
	}
	return []int{c.first, (c.first + c.last) / 2, c.last}
}

func (c trafficCase) server(frontendPort int) string {
	return fmt.Sprint("port", c.backend+frontendPort-c.first)
}

// reached checks that each port leads to the server on its backend port, which sees the
// client's address.
func (c trafficCase) reached(t *testing.T, from *lab.NS, host, seen netip.Addr) {
	t.Helper()
	for _, port := range c.samples() {
		peer := labtest.Reaches(t, from, c.network, at(host, port), c.server(port))
		require.Equal(t, seen, peer.Addr())
	}
}

// refused checks that the client is refused at once, by a TCP reset or an ICMP port
// unreachable.
func (c trafficCase) refused(t *testing.T, from *lab.NS, host netip.Addr) {
	t.Helper()
	for _, port := range c.samples() {
		require.ErrorIs(t, labtest.NoAnswer(t, from, c.network, at(host, port)), unix.ECONNREFUSED)
	}
}

// The same with other programs as clients and servers.
func TestTrafficOfOthers(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	e := open(t, top.Host, engine.Options{})
	labtest.EchoHTTP(t, top.Backend1, "web", ":80")
	labtest.Start(t, top.Backend1, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=",
		"--no-resolv", "--no-hosts", "--user=root", "--port=5353", "--address=/web.example/203.0.113.7")
	await(t, "dnsmasq to listen", func() bool {
		r := labtest.Run(t, top.Backend1, command(t, "dig", "@127.0.0.1", "-p", "5353", "web.example", "+short", "+time=1", "+tries=1"))
		return r.Code == 0 && r.Stdout == "203.0.113.7\n"
	})

	for _, f := range families(top) {
		t.Run(f.name, func(t *testing.T) {
			ms := []string{
				toward(f.host, 8080, 8080) + "->" + at(f.backend1, 80),
				toward(f.host, 53, 53) + "->" + at(f.backend1, 5353),
				toward(f.host, 53, 53) + "->" + at(f.backend1, 5353) + "/udp",
			}
			publish(t, e, ms...)
			url := "http://" + at(f.host, 8080) + "/"
			body := labtest.Exec(t, top.Client, "curl", "--silent", "--show-error", "--max-time", "10", url)
			require.Contains(t, body, "web ")
			require.Contains(t, body, f.client.String())

			for _, flag := range []string{"+notcp", "+tcp"} {
				dig := []string{"@" + f.host.String(), "web.example", "A", "+short", "+time=5", "+tries=1", flag}
				require.Equal(t, "203.0.113.7\n", labtest.Exec(t, top.Client, "dig", dig...))
			}

			unpublish(t, e, ms...)
			r := labtest.Run(t, top.Client, command(t, "curl", "--silent", "--show-error", "--max-time", "10", url))
			require.Equal(t, 7, r.Code, "curl: failed to connect, not timed out: %s", r.Stderr)
			r = labtest.Run(t, top.Client, command(t, "dig", "@"+f.host.String(), "web.example", "+time=1", "+tries=1"))
			require.Contains(t, r.Stdout, "connection refused")
		})
	}
	// Mappings do not affect the host's own services.
	ping(t, top.Client, top.Host.V4)
	ping(t, top.Client, top.Host.V6)
}
